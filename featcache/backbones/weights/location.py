"""`locate`: the file that `--weights` names, the key of the state dict in it, and the model that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.core import model_folder
from featcache.core.model_card import ModelCard
from featcache.errors import BackboneError

PRETRAINED, RANDOM = "pretrained", "none"

_NETWORK = "network.safetensors"


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights.

    Attributes
    ----------
    key : of the state dict in it, or a prefix of names; None for the usual one.
    card : of the fine-tuned run that wrote it, which has its preprocessing; None for other files.
    """

    path: Path
    key: str | None
    card: ModelCard | None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing of a fine-tuned run; empty for other files."""
        if self.card is None:
            return {}
        names = ("image_size", "resize_size", "interpolation", "mean", "std")
        return {name: getattr(self.card.spec.view, name) for name in names}


def is_file(weights: str) -> bool:
    """Whether weights come from a file."""
    return weights not in (PRETRAINED, RANDOM)


def split_key(weights: str) -> tuple[Path, str | None]:
    """The path and the key of PATH or PATH#KEY; an existing file whose name contains a # has no key."""
    path, separator, key = weights.rpartition("#")
    if separator and key and not Path(weights).exists():
        return Path(path), key
    return Path(weights), None


def absolute(weights: str) -> str:
    """The same weights, with an absolute path."""
    if not is_file(weights):
        return weights
    path, key = split_key(weights)
    return f"{path.resolve()}#{key}" if key else str(path.resolve())


def locate(weights: str, backbone: str) -> WeightsFile:
    """Find the file; `weights` may be the folder of a fine-tuned run.

    Raises
    ------
    BackboneError : a folder that is not a run, or a run of another network than `backbone`.
    HeadError : a damaged run.
    """
    path, key = split_key(weights)
    folder = path if path.is_dir() else path.parent if path.name == _NETWORK else None
    if folder is None or not (folder / model_folder.CARD).is_file():
        if path.is_dir():
            hub = " For one that timm or the Hugging Face hub wrote: --backbone timm/local-dir:PATH."
            raise BackboneError(
                f"{path} is a folder without {model_folder.CARD}: give a weights file, or a folder that "
                f"`featcache finetune -o` wrote.{hub if (path / 'config.json').is_file() else ''}"
            )
        return WeightsFile(path, key, None)
    card = ModelCard.read(folder)
    if card.kind != "network":
        raise BackboneError(
            f"{folder} holds only a head: its network still has the weights {card.weights!r}. Give them with "
            "--weights, or a run of `featcache finetune`."
        )
    if card.spec.backbone != backbone:
        raise BackboneError(
            f"{folder} holds weights of {card.spec.backbone}, not of {backbone}: --backbone {card.spec.backbone}"
        )
    return WeightsFile(model_folder.locate(folder, card.file), key, card)
