"""The options of heads that several functions and commands share, see `options`."""

from __future__ import annotations

from typing import Annotated, TypedDict

from featcache.core.options import Option
from featcache.core.specs import PENULTIMATE, Scaling, Thresholds, UseViews


class HeadFitOptions(TypedDict, total=False):
    """How a head is fitted to features."""

    use_views: Annotated[
        UseViews | None,
        Option(
            None,
            "Train on all views of a sample, on their mean, on the clean view, or on one view an epoch (cycle).",
            none="cycle for sgd, attention and layer-attention, all for the others",
        ),
    ]
    cv: Annotated[
        int | None,
        Option(
            None,
            "Folds of the cross-validation within train, 2 or more.",
            none="heads that choose their settings take 5, or hold a fifth out once if samples times classes are more "
            "than a million; others do not cross-validate",
        ),
    ]
    budget_s: Annotated[float | None, Option(None, "Time for the search of auto, in seconds.", none="10")]
    scaling: Annotated[
        Scaling | None,
        Option(
            None,
            "First step before a head that does not choose its settings: scale each feature to mean 0 and variance 1 "
            "(standard), or the features of each sample to length 1 (l2).",
            none="features are not scaled",
        ),
    ]
    calibrate: Annotated[bool, Option(False, "Give probabilities to a head without them, by Platt scaling.")]
    thresholds: Annotated[
        Thresholds | None,
        Option(
            None,
            "With several labels: the probability above which a label is predicted, one number for all labels or a "
            "number for each. f1 chooses the thresholds with the highest F1 on held-out samples.",
            none="0.5, with which most single decisions are right, but rare labels are seldom predicted",
        ),
    ]
    seed: Annotated[
        int,
        Option(
            0,
            "Seed of the folds, and of the first weights and the order of samples of sgd, attention and "
            "layer-attention.",
        ),
    ]
    device: Annotated[
        str,
        Option(
            "auto",
            "Where linear, head2toe and auto compute: auto (a GPU if there is one), cpu, cuda:1, mps. Other heads "
            "compute on the CPU.",
        ),
    ]


class LayerOptions(TypedDict, total=False):
    """Which features of a cache are used."""

    layer: Annotated[
        str,
        Option(PENULTIMATE, "Features of the cache to use: one layer, several joined by commas, stages, or all."),
    ]


class HeadOptions(HeadFitOptions, total=False):
    """How a head is fitted, on which features, and how it predicts."""

    layer: Annotated[
        str | None,
        Option(
            None,
            "Features of the cache to use: one layer, several joined by commas, stages, or all. Several layers are "
            "concatenated; heads that choose their settings choose how much those besides penultimate count, too.",
            none="auto, linear, ridge, lda and centroid choose layers by cross-validation; head2toe and "
            "layer-attention use all; other heads, and all on a cluster, use the penultimate one",
        ),
    ]
    unlabeled: Annotated[
        bool,
        Option(
            False,
            "Also learn from samples without a label (self-training), if cross-validation on the labeled ones says "
            "that this helps. For auto, and one label a sample.",
        ),
    ]
    tta: Annotated[
        int,
        Option(
            0,
            "Augmented views of a val or test sample that are averaged with the clean one, also when the saved head "
            "predicts. The cache must have them (val_views).",
        ),
    ]
