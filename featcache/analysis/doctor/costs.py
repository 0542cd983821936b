"""`expected_seconds`: the time of each step of `doctor`, for its progress bar."""

from __future__ import annotations

from featcache.analysis.doctor.label_errors import MAX_LOGITS, head_for
from featcache.analysis.doctor.neighbors import comparisons

_IMAGE_STEPS = {"read images": 1.0, "pixels": 0.6, "load network": 0.3, "network": 0.6, "scales": 0.2}
"""Steps that need the images. Each of them has so many images or fewer, so that their time is about constant."""

_IMPORT_S = 4.0  # of the libraries of networks
_PER_SECOND = 3e10  # multiplications of matrix products on a core
_VALUE, _PAIR, _LOGIT = 30, 200, 1000  # multiplications that take as long as other work on a feature, pair or logit
_STRENGTHS, _PASSES = 8, 80  # that are tried for LDA, on a fifth of the images; over the rows for a linear head


def expected_seconds(
    values: int, compared: int, checked: int, held_out: int, d: int, classes: int, imports: bool, with_images: bool
) -> dict[str, float]:
    """The time of each step on a core, by name. Only the proportions matter.

    values : numbers in the cache, of all views. compared, checked : images that are compared with each other, and train
    images whose labels are checked. held_out : images of val and test. d : features. imports : whether the libraries of
    networks will be imported.
    """
    folds = 5 if checked * classes <= MAX_LOGITS else 1
    space = min(checked, d)  # few images span a smaller space
    logits = checked * classes
    head: float
    if head_for(checked, classes) == "linear":
        head = 2 * folds * _PASSES * logits * space
    else:
        solutions = 2 * (_STRENGTHS + folds) * space**2 * (space / 3 + classes)
        predictions = (_STRENGTHS / 5 + (folds > 1)) * logits * (space + _LOGIT)
        head = checked * space**2 + solutions + predictions
    multiplications = {
        "images": 2e8,
        "input": 1e8,
        "values": _VALUE * values + min(compared, 2000) * d**2,
        "views": 1e8,
        "duplicates": comparisons(compared) * (0.6 * d + _PAIR),
        "labels": 3e9 + head + held_out * classes * d,
    }
    seconds = {name: amount / _PER_SECOND for name, amount in multiplications.items()}
    seconds["input"] += _IMPORT_S if imports else 0
    return {**seconds, **_IMAGE_STEPS} if with_images else seconds
