"""Recipes of augmented views, one module each, and the geometry that they share."""
