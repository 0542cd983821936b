"""The feature cache: file format, reading, writing, verification, transfer.

Imported by `vision`, `backbones` and the rooms above.
"""
