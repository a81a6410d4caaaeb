"""Fail with one message, write whole files, lock, end well."""
