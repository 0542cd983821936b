"""Networks trained end to end, on the data layer of caches. Imported by `analysis` and `reports`, not by `models`."""
