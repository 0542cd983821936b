"""`TextSpec`: how a text becomes a view, and the input of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from featcache.core.view_specs.base import Augment, Recipes, SampleView, check_choice
from featcache.core.view_specs.registry import VIEW_SPECS
from featcache.errors import SpecError

TextPooling = Literal["mean", "cls", "max"]

TEXT_AUGMENT = "word-dropout"
"""Default recipe of views of texts in a cache."""
TEXT_AUGMENTS: tuple[str, ...] = ("word-dropout", "sentence-crop", "none")
"""The view recipes for texts."""


@dataclass(frozen=True)
class TextSpec(SampleView):
    """How a text becomes a view, and the input of an encoder. View 0 is the whole text; others are augmented.

    Parameters
    ----------
    tokenizer_sha256 : str
        SHA-256 of the files that decide the tokens of a text, 64 hex digits.
    max_length : int, default 256
        Most tokens of a text, special tokens and those of the prefix included. The end of a longer text is cut off.
    prefix : str, default ""
        Put before every text, such as "query: ".
    pooling : {"mean", "cls", "max"}, default "mean"
        How the vectors of the tokens become the penultimate features, by the encoder's own configuration.
    normalize : bool, default False
        Whether the penultimate features are scaled to length 1, by the encoder's own configuration.
    augment : str, default "none"
        Name of the view recipe for views 1, 2, ...: "word-dropout", "sentence-crop" or "none".
    seed : int, default 0
        Seed of the augmentation.
    separator : str, default ""
        Takes the place of the unit separator, U+001F, between the texts of several columns: special tokens such as
        "[SEP]", by the encoder's tokenizer. Empty for texts of one column, in which U+001F is text.

    Raises
    ------
    SpecError
        A value is not possible.

    Examples
    --------
    >>> TextSpec("0" * 64, prefix="query: ").max_length
    256
    """

    modality: ClassVar[str] = "text"
    recipes: ClassVar[Recipes] = Recipes(TEXT_AUGMENTS, TEXT_AUGMENT, "none", "none", ("word-dropout", "sentence-crop"))
    newer: ClassVar[Mapping[str, Any]] = MappingProxyType({"separator": ""})

    tokenizer_sha256: str
    max_length: int = 256
    prefix: str = ""
    pooling: TextPooling = "mean"
    normalize: bool = False
    augment: Augment = "none"
    seed: int = 0
    separator: str = ""

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, TextPooling)
        if self.augment not in TEXT_AUGMENTS:
            raise SpecError(f"augment is {self.augment!r}; for texts it must be one of {', '.join(TEXT_AUGMENTS)}")
        if self.max_length < 1:
            raise SpecError(f"max_length is {self.max_length}; it must be 1 or more")

    @property
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for: the most tokens of a text."""
        return self.max_length

    @property
    def joins_columns(self) -> bool:
        """See `SampleView`."""
        return bool(self.separator)


VIEW_SPECS.register(TextSpec.modality, TextSpec)
