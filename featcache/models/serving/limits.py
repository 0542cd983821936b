"""Limits of uploads to the server. It imports nothing, so that help needs no PyTorch."""

MAX_UPLOAD_BYTES = 20 << 20
"""The largest file that the server accepts."""

MAX_UPLOAD_PIXELS = 50_000_000
"""The largest image that the server accepts."""
