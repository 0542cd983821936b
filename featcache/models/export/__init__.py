"""A saved model as a file that needs no featcache: one file for a format."""
