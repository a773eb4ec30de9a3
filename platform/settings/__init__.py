"""What can be asked for: typed settings, read from YAML, checked whole before anything starts."""
