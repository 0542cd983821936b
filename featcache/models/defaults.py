"""Defaults that Python functions and options of commands share. It imports nothing, so that help needs no PyTorch."""

TOP_CLASSES = 5
"""How many classes a prediction names."""
