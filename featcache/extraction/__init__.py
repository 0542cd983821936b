"""From images and a backbone to a cache: extract, update, estimate, on one machine or many.

Imported by `heads` and the rooms above.
"""
