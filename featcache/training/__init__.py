"""The gradient training loop: configuration, loss, batches, checkpoint, process group.

Imported by `heads` and the rooms above.
"""
