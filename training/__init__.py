"""The programs, run from a clone as `python -m training COMMAND`, a file each; the folders hold what they consist of."""
