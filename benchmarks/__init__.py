"""Speed and memory against the library's GPT-2, measured in one run on the same machine. Started from a clone."""
