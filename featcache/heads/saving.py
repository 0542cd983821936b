"""`save_fit`: the files of a head in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featcache._utils.formatting import json_safe
from featcache.backbones.hub_model import is_named
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.joined_cache import JoinedCache
from featcache.core.hub_names import HUB_DATASET, HUB_MODEL
from featcache.core.layer_names import join_layers, split_layer
from featcache.core.model_card import REPORT, ModelCard, NetworkCard, as_json
from featcache.core.model_folder import README
from featcache.core.model_readme import model_readme
from featcache.core.training_samples import FILE as TRAINING_SAMPLES
from featcache.core.training_samples import training_samples
from featcache.heads.held_out import FILE as HELD_OUT
from featcache.heads.held_out import HeldOutScores
from featcache.heads.io import save_head
from featcache.heads.predict import Evaluation
from featcache.heads.training_data import TrainingData
from featcache.metrics.predictions import FILE, TEST, predictions_csv

if TYPE_CHECKING:
    from featcache.heads.fit_head import HeadFit


def save_fit(
    result: HeadFit,
    held_out: HeldOutScores | None,
    evaluation: Evaluation,
    data: TrainingData,
    cache: FeatureCache | JoinedCache,
    folder: Path,
    tta: int,
) -> None:
    """Write a head, its cards, its predictions of val and test, and the report. tta : see `fit_head`."""
    file, weights = save_head(result.estimator, cache.spec.digest())
    samples = cache.samples
    card = ModelCard(
        kind="head",
        file=file,
        head=result.name,
        classes=samples.classes,
        spec=cache.spec,
        weights=data.weights,
        layer=data.layer,
        metrics=result.accuracy.to_dict(),
        multilabel=samples.multilabel,
        thresholds=result.thresholds,
        tta=tta,
        engine=str(cache.provenance.get("engine", "")),
        networks=_networks(cache, data.layers) if isinstance(cache, JoinedCache) else (),
        self_training=result.self_training.to_dict() if result.self_training and result.self_training.used else None,
    )
    test = None
    if data.test is not None and evaluation.test is not None:
        test = predictions_csv(data.test.samples, *evaluation.test, cache.spec.modality)
    report = json_safe(result.to_dict())
    files = {
        FILE: predictions_csv(data.val.samples, *evaluation.val, cache.spec.modality),
        TEST: test,
        HELD_OUT: held_out.to_bytes() if held_out else None,
        TRAINING_SAMPLES: training_samples(samples.sha256[cache.readable_rows("train")]),
        REPORT: as_json(report),
        README: model_readme(
            card,
            report,
            base_model=str(cache.provenance.get(HUB_MODEL, "")),
            dataset=str(cache.provenance.get(HUB_DATASET, "")),
            is_named=all(is_named(network.spec.backbone) for network in card.networks or (card,)),
        ),
    }
    card.write(folder, weights, files)


def _networks(cache: JoinedCache, layers: Sequence[str]) -> tuple[NetworkCard, ...]:
    """The networks of a head on several caches."""
    return tuple(
        NetworkCard(
            name=name,
            spec=single.spec,
            weights=single.provenance.get("weights", "pretrained"),
            layer=join_layers(layer for own, layer in map(split_layer, layers) if own == name),
            engine=str(single.provenance.get("engine", "")),
        )
        for name, single in cache.caches.items()
    )
