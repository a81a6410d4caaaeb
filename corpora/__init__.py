"""Corpora: readers, labels, splits into train, dev and test, leakage check, certificate."""
