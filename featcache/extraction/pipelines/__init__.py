"""What extraction does for one modality: a module each."""
