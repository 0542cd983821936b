"""The HTML pages, one file each: of a head, a trial, a benchmark and a capacity plan."""
