"""Where networks come from: one file for a source, found by the prefix of a name."""
