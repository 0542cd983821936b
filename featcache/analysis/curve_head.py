"""`choose_head`: the head and the layers that a curve is of."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from featcache._utils.progress_bar import Progress
from featcache.cache.feature_cache import FeatureCache
from featcache.core.layer_names import ALL
from featcache.errors import HeadError
from featcache.heads.fit import default_layer, fit
from featcache.heads.registry import HeadSpec, find_head, heads_with
from featcache.heads.training_data import FitOptions, Fitted, TrainingData


class CurveHead(NamedTuple):
    """A head, the features of its layers, and a note on how both were chosen; "" if nothing was chosen."""

    head: str
    data: TrainingData
    note: str


def choose_head(
    cache: FeatureCache, head: str, layer: str | None, seed: int, progress: Progress | None = None
) -> CurveHead:
    """The head and the layers that are named; others are chosen as `fit_head` does, by one fit to all of train.

    head : "auto", or a head that chooses its settings. layer : None leaves the choice to the head.

    Raises
    ------
    CacheError, HeadError
    """
    spec = find_head(head)
    if spec.tune is None and not spec.tries_heads:
        raise HeadError(f"the head of a curve must be auto or one of {', '.join(heads_with('tune'))}; got {head}")
    data = TrainingData.read(cache, layer or default_layer(head, None, cache.spec.layers))
    keeps_layers = layer is not None or spec.layer == ALL or len(data.layers) == 1
    if keeps_layers and not spec.tries_heads:
        return CurveHead(head, data, "")
    fitted = fit(head, replace(data, keep_layers=keeps_layers), FitOptions(seed=seed, progress=progress))
    chosen = data.take_layers([data.layers.index(name) for name in fitted.layers])
    return CurveHead(fitted.name, chosen, _note(spec, keeps_layers, fitted, len(data.train.samples)))


def _note(spec: HeadSpec, keeps_layers: bool, fitted: Fitted, images: int) -> str:
    what = " and the ".join(["head"] * spec.tries_heads + ["layers"] * (not keeps_layers))
    verb = "was" if what == "head" else "were"
    sentences = [f"The {what} {verb} chosen once, by cross-validation on all {images} training samples."]
    if fitted.selection:
        sentences += [f"{name} was left out: {reason}." for name, reason in fitted.selection.skipped]
    if fitted.layer_selection and fitted.layer_selection.skipped:
        sentences.append(f"{fitted.layer_selection.skipped} choices of layers were not compared: the budget was spent.")
    return " ".join(sentences)
