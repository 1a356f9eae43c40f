"""From text to token shards to windows of tokens. It may import the ground: errors, files, processes."""
