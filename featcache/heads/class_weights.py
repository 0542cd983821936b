"""`weights_by_index`: class weights by the names of classes as weights by their indices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def weights_by_index(class_weight: Any, classes: tuple[str, ...]) -> Any:
    """Weights by class name as weights by index; other values are returned unchanged. Raises ValueError."""
    if not isinstance(class_weight, Mapping):
        return class_weight
    unknown = [name for name in class_weight if isinstance(name, str) and name not in classes]
    if unknown:
        raise ValueError(f"class_weight names {unknown[0]!r}; the classes are {', '.join(classes)}")
    return {classes.index(name) if isinstance(name, str) else name: weight for name, weight in class_weight.items()}
