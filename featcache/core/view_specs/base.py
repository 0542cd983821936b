"""`SampleView`: what decides the views of samples of one modality."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias, get_args

from featcache.errors import SpecError

Augment: TypeAlias = str
"""Name of a view recipe: one of `Recipes.names`, or for images one that another package adds, see `view_recipes`."""


class Recipes(NamedTuple):
    """The view recipes of a modality, and which of them are defaults.

    Parameters
    ----------
    names : tuple of str
        The recipes of featcache.
    cached : str
        Of the augmented views in a cache.
    clean : str
        That the spec of a cache without augmented views names; it decides nothing.
    live : str
        Of live training.
    trial : tuple of str
        Those that ``views="auto"`` compares.
    """

    names: tuple[str, ...]
    cached: str
    clean: str
    live: str
    trial: tuple[str, ...]


class SampleView(ABC):
    """How samples of one modality become views, and the inputs of a network. View 0 is the sample as it is.

    Each modality has a subclass, a frozen dataclass. `VIEW_SPECS` has the subclass by the name of the modality. Its
    fields are those of an `ExtractSpec`, too, so that they differ from these in name.

    Attributes
    ----------
    modality : str
        What the samples are, such as "image".
    recipes : Recipes
        The view recipes of the modality.
    newer : mapping
        Fields that the digest leaves out at these values, so that older caches keep their digest.
    augment : str
        Name of the view recipe for views 1, 2, ...
    seed : int
        Seed of the augmentation.
    """

    modality: ClassVar[str]
    recipes: ClassVar[Recipes]
    newer: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    augment: Augment
    seed: int

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Size of the network's input, which its engine is prepared for."""

    @property
    def joins_columns(self) -> bool:
        """Whether a sample is made of several columns of a table, see `Source.joins_columns`."""
        return False

    def shows_same(self, other: SampleView) -> bool:
        """Whether views of the same number show the same part of a sample, changed in the same way."""
        return type(self) is type(other) and (self.augment, self.seed) == (other.augment, other.seed)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of all fields."""
        kind: Any = cls
        return tuple(field.name for field in dataclasses.fields(kind))

    def with_augment(self, augment: Augment) -> Self:
        """The same with another recipe."""
        view: Any = self
        changed: Self = dataclasses.replace(view, augment=augment)
        return changed


def check_choice(name: str, value: str, allowed: Any) -> None:
    """Raise SpecError for a value that is none of a Literal."""
    if value not in get_args(allowed):
        raise SpecError(f"{name} is {value!r}; it must be one of {', '.join(get_args(allowed))}")
