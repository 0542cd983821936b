"""Sources of samples: one module for each kind. Imported by `data` and the rooms above it."""
