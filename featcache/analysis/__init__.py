"""Analyses of caches, heads and routes: doctor, curve, benchmark, plan.

Imported by `reports`.
"""
