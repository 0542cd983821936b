"""Sources of text encoders: one module for each. The prefix of a name selects the source."""
