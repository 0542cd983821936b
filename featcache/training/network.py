"""`BackboneWithHead`: a backbone's module and a linear layer as one module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from featcache._utils.files import check_readable, write_file
from featcache.core.tensor_files import add_metadata, tensor_metadata
from featcache.errors import HeadError


class BackboneWithHead(nn.Module):
    """From normalised pixels (b, 3, s, s), or ids of tokens (b, t), to logits (b, c).

    Attributes
    ----------
    body : nn.Module
        The backbone's module, which gives features.
    head : nn.Linear
    eval_only : list of nn.Module
        Modules that stay in `eval()` mode while the others train. Modules inside them are not affected.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.eval_only: list[nn.Module] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Features, then logits."""
        return self.head(self.body(inputs))

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of all modules except those in `eval_only`."""
        super().train(mode)
        for module in self.eval_only:
            module.training = False
        return self

    def to_bytes(self, digest: str = "") -> bytes:
        """All weights as safetensors. digest : of the spec of the views, for the metadata of the file."""
        from safetensors.torch import save

        # `safetensors.torch.save_file` writes a file that only its owner can read
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        return add_metadata(save(weights), tensor_metadata("network", "pt", digest))

    def save(self, path: Path) -> None:
        """Write all weights as safetensors, whole or not at all. Raises OutputError."""
        write_file(path, self.to_bytes())

    def interpolate_weights(self, start: Mapping[str, Tensor], alpha: float) -> None:
        """Replace the weights by `(1 - alpha) * start + alpha * weights`.

        WiSE-FT: Wortsman et al. 2021, "Robust fine-tuning of zero-shot models", arXiv 2109.01903. The running
        statistics of BatchNorm are averaged like weights. Integers, such as its number of batches, do not change.
        """
        state = self.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = (1 - alpha) * start[name].to(value.device) + alpha * value
        self.load_state_dict(state)

    def load(self, path: Path) -> None:
        """Load weights that `save` wrote. It runs no code from the file. Raises HeadError, OSError."""
        from safetensors.torch import load_file

        check_readable(path)
        try:
            state: dict[str, Any] = load_file(path)
            self.load_state_dict(state)
        except Exception as error:  # a damaged file, or other tensors
            raise HeadError(f"{path} does not hold the weights of this network: {error}") from error
