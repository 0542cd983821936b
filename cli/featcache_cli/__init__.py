"""The command line of featcache: one file a command; each parses, calls the library once and prints."""
