"""What a run will need before it begins: memory, operations, the micro-batch that fits. Imports optimization."""
