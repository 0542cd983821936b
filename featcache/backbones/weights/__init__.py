"""Weights files: locate them, read them without running their code, and fit them to a network."""
