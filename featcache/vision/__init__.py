"""Pixels: decoding, views, loading, the image cache.

Imported by `training`, `extraction` and the rooms above.
"""
