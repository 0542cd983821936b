"""`BackboneWithHead`: a backbone's module and a linear layer, trained and used as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from featcache._utils.files import check_readable, write_file
from featcache.errors import HeadError


class BackboneWithHead(nn.Module):
    """Normalised pixels (b, 3, s, s) to logits (b, c).

    still : modules that stay in `eval()` mode while the others train, each by itself: not what it holds.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.still: list[nn.Module] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, then logits."""
        return self.head(self.body(pixels))

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for what is to be still."""
        super().train(mode)
        for module in self.still:
            module.training = False
        return self

    def to_bytes(self) -> bytes:
        """All weights as safetensors."""
        from safetensors.torch import save

        # `safetensors.torch.save_file` would write a file that its owner alone can read
        return save({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()})

    def save(self, path: Path) -> None:
        """Write all weights as safetensors, whole or not at all. Raises OutputError."""
        write_file(path, self.to_bytes())

    def mix(self, start: Mapping[str, Tensor], share: float) -> None:
        """Take `share` of its own weights and the rest of those of `start`: the straight line between two networks.

        WiSE-FT: Wortsman et al. 2021, "Robust fine-tuning of zero-shot models", arXiv 2109.01903. A BatchNorm's
        running statistics are averaged as the weights are; what counts, its number of batches, stays.
        """
        state = self.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = (1 - share) * start[name].to(value.device) + share * value
        self.load_state_dict(state)

    def load(self, path: Path) -> None:
        """Read weights that `save` wrote; executes no code from the file. Raises HeadError, OSError."""
        from safetensors.torch import load_file

        check_readable(path)
        try:
            state: dict[str, Any] = load_file(path)
            self.load_state_dict(state)
        except Exception as error:  # damaged file, other tensors
            raise HeadError(f"{path} does not hold the weights of this network: {error}") from error
