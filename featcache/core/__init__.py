"""Shared values and conventions: samples, specs, options, splits, model folders.

Imported by `metrics` and the rooms above.
"""
