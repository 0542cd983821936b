"""The file of a cache: what lies where, how it is created and locked. Imported by `cache` and `vision.image_cache`."""
