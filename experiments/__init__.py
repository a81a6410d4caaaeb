"""Ablations, jobs, tuning and learning-rate range tests."""
