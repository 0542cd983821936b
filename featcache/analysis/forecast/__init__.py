"""A forecast, from the cache alone, of the gain by fine-tuning."""
