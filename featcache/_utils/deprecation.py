"""`renamed_fields`: old names of the fields of a dataclass, which work with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def renamed_fields(**names: str) -> Callable[[type[_T]], type[_T]]:
    """A class decorator: old=new names that keyword arguments and attributes may still use."""

    def decorate(cls: type[_T]) -> type[_T]:
        initialize: Any = vars(cls)["__init__"]

        @functools.wraps(initialize)
        def renaming(self: Any, *args: Any, **fields: Any) -> None:
            for old in [name for name in names if name in fields]:
                _warn(cls, old, names[old])
                fields[names[old]] = fields.pop(old)
            initialize(self, *args, **fields)

        setattr(cls, "__init__", renaming)  # noqa: B010 (mypy refuses the assignment)
        for old, new in names.items():
            setattr(cls, old, property(functools.partial(_read, cls, old, new), doc=f"Deprecated: use {new}."))
        return cls

    return decorate


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Warn the caller that a name is deprecated."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=stacklevel + 1)


def _read(cls: type, old: str, new: str, instance: Any) -> Any:
    _warn(cls, old, new)
    return getattr(instance, new)


def _warn(cls: type, old: str, new: str) -> None:
    warn_renamed(f"{cls.__name__}.{old}", f"{cls.__name__}.{new}", stacklevel=3)
