"""Train, select on dev, test once."""
