"""Where samples come from: folders, tables, tar files, saved data sets. It reads bytes, not pixels.

Imported by `cache` and the rooms above.
"""
