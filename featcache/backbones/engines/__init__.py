"""What runs a frozen network: PyTorch, PyTorch compiled, OpenVINO."""
