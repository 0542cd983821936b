"""The HTML pages of a head, a trial, a benchmark and a capacity plan: one module for each."""
