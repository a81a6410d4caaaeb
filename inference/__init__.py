"""Label recordings with a trained model."""
