"""What a saved model predicts: a module for each modality."""
