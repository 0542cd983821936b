"""Saved models: predict, sort files, evaluate, serve, export.

Imported by `analysis` and the rooms above.
"""
