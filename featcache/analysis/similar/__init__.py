"""Samples of a cache that are similar to given ones."""
