"""`fit_caches`: a head on those of several caches that cross-validation chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sklearn.base import BaseEstimator

from featcache.cache.description import seconds_per_1000
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.joined_cache import JoinedCache
from featcache.core.layer_names import join_layer, join_layers, split_layer
from featcache.core.specs import PENULTIMATE
from featcache.heads.cache_comparison import CacheCandidate, CacheComparison, Gain
from featcache.heads.fit import cross_validates, fit
from featcache.heads.registry import find_head
from featcache.heads.training_data import FitOptions, Fitted, TrainingData
from featcache.heads.tuning.layer_comparison import LayerWeights
from featcache.heads.tuning.layer_selection import WEIGHTS, LayerChoices
from featcache.metrics.multilabel import judge


def fit_caches(
    head: str | BaseEstimator, cache: JoinedCache, data: TrainingData, options: FitOptions, *, use_all: bool, tta: int
) -> tuple[Fitted, FeatureCache | JoinedCache, TrainingData]:
    """Fit a head to each cache alone, and to the best one with others, and choose by cross-validation.

    A cache is added if the head then has a log-loss on held-out training samples that is lower by more than one
    standard error, and no lower accuracy. The layers of both start with the weights that they have alone, those of the
    added cache times 1/3, 1 and 3; then the weight of each layer is chosen, see `select_layers`.

    A head that does not cross-validate is fitted to all caches.

    Parameters
    ----------
    head : str or estimator
        See `featcache.heads.fit.fit`.
    cache : JoinedCache
        Two caches or more.
    data : TrainingData
        Its features, of the layers to choose from.
    options : FitOptions
        How each head is fitted.
    use_all : bool
        Whether the head must use all caches that the layers are of.
    tta : int
        See `TrainingData.read`.

    Returns
    -------
    fitted : Fitted
        The head.
    cache : FeatureCache or JoinedCache
        What it uses: one cache, or several.
    data : TrainingData
        The features of the layers that it uses.

    Raises
    ------
    HeadError, BackboneError, CacheError
    """
    names = list(dict.fromkeys(split_layer(layer)[0] for layer in data.layers))
    spec = find_head(head)
    if len(names) == 1:
        fitted, single, data = _fit_single(head, cache, names[0], data, options, tta)
        others = ", ".join(name for name in cache.caches if name not in names)
        note = f"the layers are those of {names[0]}, so {others} is not used"
        return replace(fitted, notes=(*fitted.notes, note)), single, data
    if not cross_validates(spec, data, options):
        fitted = fit(head, data, options)
        note = f"{fitted.name} does not cross-validate, so the caches are not compared: it uses all of them"
        return replace(fitted, notes=(*fitted.notes, note)), cache.select(names), _take(data, fitted)
    comparison = _Comparison(head, cache, data, options, tta)
    fits: dict[tuple[str, ...], Fitted] = {(name,): comparison.fit_alone(name) for name in names}
    chosen = min(fits, key=lambda item: _log_loss(fits[item]))
    gains: dict[tuple[str, ...], Gain] = {}
    while rest := [name for name in names if name not in chosen]:
        for name in rest:
            joint = (*chosen, name)
            fits[joint] = comparison.fit_joint(fits[chosen], chosen, fits[name,], name)
            gains[joint] = comparison.gain(fits[chosen], fits[joint])
        best = min(((*chosen, name) for name in rest), key=lambda item: _log_loss(fits[item]))
        is_used = best[-1] in {split_layer(layer)[0] for layer in fits[best].layers}
        if not (use_all or (is_used and gains[best].is_clear)):
            break
        chosen = best
    candidates = tuple(comparison.describe(item, fitted, gains.get(item)) for item, fitted in fits.items())
    result = CacheComparison(candidates, chosen, candidates[0].accuracy.n, cache.spec.modality, is_given=use_all)
    fitted = replace(fits[chosen], cache_comparison=result)
    if len(chosen) > 1:
        used = cache.select({split_layer(layer)[0] for layer in fitted.layers})
        return fitted, used, _take(_read(used, replace(data, layers=fitted.layers), tta), fitted)
    single = cache.caches[chosen[0]]
    if (single.done > 0).sum() > (cache.done > 0).sum():  # the others lack samples, or could not read them
        refitted, single, data = _fit_single(head, cache, chosen[0], data, options, tta)
        return replace(refitted, cache_comparison=result), single, data
    return fitted, single, _take(comparison.read_alone(chosen[0]), fitted)


class _Comparison:
    """Fits heads to one cache or several. For the parameters see `fit_caches`."""

    def __init__(
        self, head: str | BaseEstimator, cache: JoinedCache, data: TrainingData, options: FitOptions, tta: int
    ) -> None:
        self._head, self._cache, self._data, self._options, self._tta = head, cache, data, options, tta

    def read_alone(self, name: str) -> TrainingData:
        """The features of one cache, with its own names of layers."""
        layers = [layer for layer in self._data.layers if split_layer(layer)[0] == name]
        return _without_names(self._read((name,), layers))

    def fit_alone(self, name: str) -> Fitted:
        """A head on one cache."""
        return fit(self._head, self.read_alone(name), self._options)

    def fit_joint(self, base: Fitted, base_names: tuple[str, ...], added: Fitted, name: str) -> Fitted:
        """A head on the layers of one that uses the caches `base_names`, and of one that uses another cache alone."""
        base_weights = _layer_weights(base, base_names)
        weights = {**base_weights, **_layer_weights(added, (name,))}
        data = self._read((*base_names, name), list(weights))
        candidates = tuple(
            LayerWeights(
                tuple(range(len(data.layers))),
                tuple(weights[layer] * (1.0 if layer in base_weights else factor) for layer in data.layers),
            )
            for factor in WEIGHTS
        )
        main = next((layer for layer in base_weights if split_layer(layer)[1] == PENULTIMATE), next(iter(base_weights)))
        choices = LayerChoices(candidates, data.layers.index(main))
        return fit(self._head, replace(data, choices=choices), self._options)

    def gain(self, first: Fitted, second: Fitted) -> Gain:
        """Of the second head over the first."""
        pair = [fitted.held_out_predictions for fitted in (first, second)]
        if pair[0] is None or pair[1] is None:
            raise AssertionError("both cross-validate")
        return Gain.between(self._data.train, pair[0], pair[1])

    def describe(self, names: tuple[str, ...], fitted: Fitted, gain: Gain | None) -> CacheCandidate:
        """A line of the table."""
        held_out, train = fitted.held_out_predictions, self._data.train
        if held_out is None:
            raise AssertionError("it cross-validates")
        accuracy = judge(train.y[held_out.rows], *held_out[1:], train.samples.classes)
        seconds = [seconds_per_1000(self._cache.caches[name]) for name in names]
        known = [value for value in seconds if value is not None]
        return CacheCandidate(
            names, fitted.name, fitted.layers, accuracy, sum(known) if len(known) == len(seconds) else None, gain
        )

    def _read(self, names: tuple[str, ...], layers: Sequence[str]) -> TrainingData:
        """The features of some caches, with the samples of all."""
        return _read(self._cache.select(names), replace(self._data, layers=tuple(layers)), self._tta)


def _fit_single(
    head: str | BaseEstimator, cache: JoinedCache, name: str, data: TrainingData, options: FitOptions, tta: int
) -> tuple[Fitted, FeatureCache, TrainingData]:
    """A head on all samples of one of the caches."""
    single = cache.caches[name]
    layers = [split_layer(layer)[1] for layer in data.layers if split_layer(layer)[0] == name]
    data = _read(single, replace(data, layers=tuple(layers)), tta)
    fitted = fit(head, data, options)
    return fitted, single, _take(data, fitted)


def _read(cache: FeatureCache | JoinedCache, data: TrainingData, tta: int) -> TrainingData:
    """The features of the layers of `data`, of other caches."""
    read = TrainingData.read(cache, join_layers(data.layers), tta=tta, with_test=True, check_train=False)
    return replace(read, keep_layers=data.keep_layers)


def _take(data: TrainingData, fitted: Fitted) -> TrainingData:
    return data.take_layers([data.layers.index(layer) for layer in fitted.layers])


def _without_names(data: TrainingData) -> TrainingData:
    """The same with the names that the layers have in their own cache."""
    return replace(data, layers=tuple(split_layer(layer)[1] for layer in data.layers))


def _layer_weights(fitted: Fitted, names: tuple[str, ...]) -> dict[str, float]:
    """The weight of each layer of a head, by the names that the layers have in joined caches."""
    selection = fitted.layer_selection
    weights = (1.0,) * len(fitted.layers) if selection is None else selection.candidates[selection.chosen].weights
    layers = [join_layer(names[0], layer) for layer in fitted.layers] if len(names) == 1 else fitted.layers
    return dict(zip(layers, weights, strict=True))


def _log_loss(fitted: Fitted) -> float:
    """Of held-out training samples, as the head was chosen by."""
    if fitted.selection is None:
        raise AssertionError("it cross-validates")
    return fitted.selection.chosen.accuracy.log_loss or 0.0
