"""The file format of a cache: layout, creation, locking. Imported by `cache` and `vision.image_cache`."""
