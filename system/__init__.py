"""Errors in one message, atomic files, locks, signals."""
