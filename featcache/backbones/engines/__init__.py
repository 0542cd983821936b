"""Engines that run a frozen network: PyTorch, compiled PyTorch, OpenVINO."""
