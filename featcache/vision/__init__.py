"""All that knows pixels: decoding, views, loading, the cache of images."""
