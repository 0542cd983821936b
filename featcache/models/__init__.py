"""Saved models in use: classifying, sorting, evaluating, serving, exporting."""
