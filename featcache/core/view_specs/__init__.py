"""What decides a view of a sample: a module for each modality."""
