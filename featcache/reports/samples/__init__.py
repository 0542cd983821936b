"""How reports show samples: a module for each modality."""
