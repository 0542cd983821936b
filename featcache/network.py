"""`Network`: a backbone's module and a linear layer, trained and used as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from featcache.errors import HeadError


class Network(nn.Module):
    """Normalised pixels (b, 3, s, s) to logits (b, c)."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """Features, then logits."""
        return self.head(self.body(pixels))

    def save(self, path: Path) -> None:
        """Write all weights as safetensors."""
        from safetensors.torch import save_file

        draft = path.with_name(f"{path.name}.draft")
        save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, draft)
        draft.replace(path)

    def load(self, path: Path) -> None:
        """Read weights that `save` wrote; executes no code from the file."""
        from safetensors.torch import load_file

        try:
            state: dict[str, Any] = load_file(path)
            self.load_state_dict(state)
        except Exception as error:  # damaged file, other tensors
            raise HeadError(f"{path} does not hold the weights of this network: {error}") from error
