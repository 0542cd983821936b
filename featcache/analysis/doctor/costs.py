"""`expected_seconds`: the time of each step of `doctor`, for its progress bar."""

from __future__ import annotations

from featcache.analysis.doctor.label_errors import MAX_LOGITS, head_for
from featcache.analysis.doctor.neighbors import comparisons

IMAGE_STEPS = {"read images": 2.0, "pixels": 1.0, "load network": 3.0, "network": 1.0, "scales": 1.0}
"""Steps that need the images. Each of them has so many images or fewer, so that their time is about constant."""

_PER_SECOND = 3e10  # multiplications of matrix products on a core
_VALUE = 30  # multiplications that take as long as reading a value of a feature, and checking it
_PAIR = 500  # multiplications that take as long as choosing the most similar ones, per pair
_STRENGTHS, _PASSES = 8, 80  # that are tried for LDA; over the rows for a linear head


def expected_seconds(
    values: int, compared: int, checked: int, held_out: int, d: int, classes: int, with_images: bool
) -> dict[str, float]:
    """The time of each step on a core, by name. Only the proportions matter.

    values : numbers in the cache, of all views. compared, checked : images that are compared with each other, and train
    images whose labels are checked. held_out : images of val and test. d : features.
    """
    folds = 5 if checked * classes <= MAX_LOGITS else 1
    space = min(checked, d)  # few images span a smaller space
    logits = checked * space * classes
    head: float
    if head_for(checked, classes) == "linear":
        head = 2 * folds * _PASSES * logits
    else:
        head = checked * space**2 + _STRENGTHS * (folds * space**2 * (space / 3 + classes) + logits)
    multiplications = {
        "images": 1e9,
        "input": 1e9,
        "values": _VALUE * values,
        "views": 1e8,
        "duplicates": comparisons(compared) * (d + _PAIR),
        "labels": head + held_out * d * classes,
    }
    seconds = {name: amount / _PER_SECOND for name, amount in multiplications.items()}
    return {**seconds, **IMAGE_STEPS} if with_images else seconds
