"""End-to-end training of networks, on the views that a cache stores.

Imported by `analysis` and the rooms above.
"""
