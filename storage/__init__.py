"""What lies on disk: feature store, run folder, ledger, model card, weights."""
