"""What an exported file takes, for each modality: a module each."""
