"""What is wrong with a cache, its images and its labels: one file for a kind of check."""
