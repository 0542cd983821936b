"""Whether fine-tuning will pay, from the cache alone."""
