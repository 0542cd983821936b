"""Figures, HTML pages and `try`.

Imported by the command line.
"""
