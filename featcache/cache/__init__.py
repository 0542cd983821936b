"""The file of features: its format, reading, writing, checking, copying."""
