"""The page on which people record or drop a file and see what a model says: used by app.py."""
