"""Texts: from the bytes of a sample to the tokens that an encoder takes."""
