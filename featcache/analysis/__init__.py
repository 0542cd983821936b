"""Analyses of caches, heads and routes: doctor, curve, forecast, benchmark, plan.

Imported by `reports`.
"""
