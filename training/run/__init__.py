"""One run, whatever its task: folder, lock, checkpoints, Trainer, metrics, result. Imports every other room."""
