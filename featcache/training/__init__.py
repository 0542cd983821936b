"""The one loop that learns by gradients, its recipe, and several processes."""
