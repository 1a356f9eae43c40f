"""One run, whatever its task: its folder, its lock, its checkpoints, what it writes down."""
