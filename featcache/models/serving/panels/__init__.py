"""The part of the served page that takes a sample: a module for each modality."""
