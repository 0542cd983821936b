"""General utilities: files, locks, text, progress. They contain no concept of featcache.

Imported by all rooms.
"""
