"""The programs, run from a clone as `python -m training COMMAND`."""
