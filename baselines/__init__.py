"""Baselines: what simple methods reach on the same folds, beside the fusions."""
