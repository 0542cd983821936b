"""How good predictions are, and whether a difference is one."""
