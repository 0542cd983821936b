"""Metrics, calibration and significance of predictions.

Imported by `data` and the rooms above.
"""
