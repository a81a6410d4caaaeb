"""What a run is: the keys of a config, and how a config is read."""
