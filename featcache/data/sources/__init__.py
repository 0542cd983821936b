"""Where samples come from: one file for a kind of source. Imported by `data` and the rooms above it."""
