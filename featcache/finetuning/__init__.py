"""Networks trained end to end, with the data layer of caches."""
