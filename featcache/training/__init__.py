"""The one loop that trains by gradients: its configuration, loss, batches, checkpoint and process group."""
