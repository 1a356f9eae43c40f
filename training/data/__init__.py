"""From text to its split, to tokens in shards, to windows of tokens. Imports what lies in `training/` itself alone."""
