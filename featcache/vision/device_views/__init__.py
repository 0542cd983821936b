"""Views made on a GPU from decoded images, with the very pixels of `make_views`."""
