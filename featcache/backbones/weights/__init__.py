"""Weights files: found, read without running their code, and fitted to a network."""
