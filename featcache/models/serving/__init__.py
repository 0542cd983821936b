"""A web page and an HTTP API for a saved model."""
