"""What training does for one modality: a module each."""
