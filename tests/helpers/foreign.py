"""A classifier from outside scikit-learn, whose loading leaves a mark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Foreign(ClassifierMixin, BaseEstimator):
    """Says 0; writes the file `mark` when it is loaded."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark

    def fit(self, X: Any, y: Any) -> Self:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X), dtype=np.int64)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Path(state["mark"]).touch()


class Payload:
    """A pickle that makes the folder `mark` when it is loaded."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)
