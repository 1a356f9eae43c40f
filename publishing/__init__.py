"""From a model folder to a verified repository on the Hub; imports of training only `errors`, `files` and `record`."""
