"""The programs, run from a clone as `python -m training COMMAND`, a file each, and in the folders their parts."""
