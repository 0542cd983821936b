"""Classifiers on features: fitting, choosing, saving."""
