"""Defaults that Python functions and options of commands share. It imports nothing, so that help needs no PyTorch."""

TOP_CLASSES = 5
"""How many classes a prediction names."""

MAX_UPLOAD_BYTES = 20 << 20
"""The largest file that the server accepts."""

MAX_UPLOAD_PIXELS = 50_000_000
"""The largest image that the server accepts."""
