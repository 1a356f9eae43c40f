"""Publishing: a model folder becomes a release, is opened as strangers will, and goes to the Hub in one commit."""
