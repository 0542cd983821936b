"""Frozen networks that turn pixels into features: sources, weights, engines and layers."""
