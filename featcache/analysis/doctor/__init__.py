"""Checks of a cache, its images and its labels: one module for each kind of check."""
