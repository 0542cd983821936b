"""The comparison of all routes to a classifier, with their costs."""
