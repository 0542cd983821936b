"""`TextSource`: the base class of a library of text encoders. Each source is one file of this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from featcache.core.specs import TextPooling

if TYPE_CHECKING:
    from torch import nn

    from featcache.backbones.text_tokenizer import Tokenizer


class BuiltTextEncoder(NamedTuple):
    """A text encoder.

    module : from ids and mask to the hidden states, see `TextEncoder`.
    tokenizer : from texts to ids.
    pooling, normalize : how the last hidden state becomes the penultimate features.
    architecture : what decides the features beside the weights, such as the number of heads, see `TextEncoder`.
    """

    module: nn.Module
    tokenizer: Tokenizer
    pooling: TextPooling = "mean"
    normalize: bool = False
    architecture: str = ""


class TextSource:
    """A library of text encoders.

    featcache registers its own sources in `featcache.backbones.text_sources.registry`. Another package adds one by an
    entry point of the group "featcache.text_encoders", whose value is an instance. `load_text_encoder` finds it by the
    name of the entry point, and by "<name>/<model>". Every method gets the complete name. Import heavy libraries inside
    of methods: sources are imported whenever a name is looked up.

    Attributes
    ----------
    hint : str. How its encoders are named, for messages, such as "transformers/<name or folder>".
    packages : tuple of str. Distributions whose versions decide what an encoder computes.
    """

    hint: str = ""
    packages: tuple[str, ...] = ("tokenizers", "transformers")

    def owns(self, name: str) -> bool:
        """Whether a name is of this source."""
        return True

    def names(self) -> list[str]:
        """Complete names of encoders, to suggest them in messages."""
        return []

    def files(self, name: str, weights: str) -> list[Path]:
        """All files that decide an encoder, found without importing a library, so that its metadata can be cached.

        Empty if they are not known. The parameters and errors are those of `build`.
        """
        return []

    def hub_model(self, name: str) -> str:
        """The repository of the pretrained weights on the Hugging Face Hub, such as "user/name"; "" if not known."""
        return ""

    def build(self, name: str, weights: str, max_length: int | None, prefix: str | None) -> BuiltTextEncoder:
        """Build an encoder. The caller seeds torch's generator for random weights.

        Parameters
        ----------
        weights : str. "pretrained", "none" (random), or the path of a file.
        max_length : int or None. Most tokens of a text; None is the usual number of the encoder.
        prefix : str or None. Put before every text; None is the encoder's own.

        Raises
        ------
        BackboneError : unknown name, or weights that are not available or do not fit.
        MissingExtraError : a package is not installed.
        """
        raise NotImplementedError
