"""Heads fitted on the machines of a Ray cluster. Imports `tuning` and `solvers`."""
