"""Frozen networks that turn pixels into features: sources, weights, engines and layers.

Imported by `training`, `extraction` and the rooms above.
"""
