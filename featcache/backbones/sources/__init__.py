"""Sources of networks: one module for each. The prefix of a name selects the source."""
