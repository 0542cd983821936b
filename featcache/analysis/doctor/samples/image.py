"""The checks of the doctor on images: their preprocessing, and some of them through the network again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featcache._utils.formatting import plural
from featcache.analysis.doctor.findings import Check, Issue, Severity, name_row
from featcache.analysis.doctor.samples.base import DataChecks, SampleChecks
from featcache.analysis.doctor.samples.registry import SAMPLE_CHECKS
from featcache.analysis.doctor.words import IMAGE_WORDS, Words
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import preprocessing_of
from featcache.cache.feature_cache import FeatureCache
from featcache.core.rng import content_order
from featcache.core.samples import UNLABELED
from featcache.core.specs import PENULTIMATE, is_arrays, no_network
from featcache.data.modality import IMAGES
from featcache.errors import BackboneError, CacheMismatchError

_NETWORK_IMAGES, _PIXEL_IMAGES = 12, 400  # images of a check


class ImageChecks(SampleChecks):
    """Images; see `SampleChecks`."""

    runs_network = True

    def _words(self, name: str) -> Words:
        return IMAGE_WORDS

    def check_input(self, cache: FeatureCache, backbone: Any, weights: str | None) -> Check:
        """Whether mean, std and interpolation of the cache are those that the network's weights were trained with."""
        spec = cache.spec
        names = ("mean", "std", "interpolation")
        if isinstance(backbone, Backbone):
            expected = {name: getattr(backbone, name) for name in names}
        else:
            expected = preprocessing_of(spec, weights or cache.provenance.get("weights", "pretrained")) or {}
        if not expected:
            unknown = f"the preprocessing of {spec.backbone} is not known"
            reason = no_network(spec.backbone) if is_arrays(spec.backbone) else unknown
            return Check("input", f"not checked: {reason}", ran=False)
        actual: dict[str, Any] = {
            "mean": spec.image_view.mean,
            "std": spec.image_view.std,
            "interpolation": spec.image_view.interpolation,
        }
        expected = {name: expected[name] if name == "interpolation" else tuple(expected[name]) for name in names}
        wrong = [name for name in names if actual[name] != expected[name]]
        if not wrong:
            return Check("input", f"{', '.join(names)} are those of {spec.backbone}")
        differences = "; ".join(f"{name} {actual[name]}, {spec.backbone} has {expected[name]}" for name in wrong)
        what = f"the cache was made with {differences}"
        severity: Severity = "warning" if wrong == ["interpolation"] else "error"
        remedy = (
            f"Extract again with the preprocessing of the network: featcache extract DATA --backbone {spec.backbone}."
        )
        return Check("input", what, (Issue("input scale", severity, what, remedy),))

    def check_data(self, checks: Sequence[Check], request: DataChecks) -> list[Check]:
        """The checks of `featcache.analysis.doctor.image_checks`."""
        from featcache.analysis.doctor.image_checks import check_network, check_pixels, read_clean, try_scales
        from featcache.extraction.request import load_cache_backbone

        cache, data, train, backbone = request.cache, request.data, request.train, request.backbone
        seed, steps, checks = request.seed, request.steps, [*checks]
        readable = cache.readable_rows(UNLABELED if train is None else "train")
        index_of = {int(row): index for index, row in enumerate(readable)}
        order = readable[content_order(cache.samples.sha256[readable], seed, "examine")]
        with steps.step("read images"):
            rows, pixels, missing = read_clean(cache, data, order[:_PIXEL_IMAGES])
        indices = np.array([index_of[int(row)] for row in rows], np.int64)
        if missing:
            examples = tuple(name_row(cache.samples, row) for row in missing)
            are = "is" if len(missing) == 1 else "are"
            what = (
                f"{len(missing)} of {plural(len(missing) + len(rows), 'image')} {are} missing from {data} or changed: "
                f"{next(iter(missing.values()))}"
            )
            checks.append(
                Check("files", what, (Issue("other images", "warning", what, "See `featcache diff`.", examples),))
            )
        one_label = None if cache.samples.multilabel else train
        with steps.step("pixels"):
            checks += [check_pixels(one_label, indices, pixels, seed)] if one_label else []
        try:
            with steps.step("load network"):
                if not isinstance(backbone, Backbone):
                    backbone = load_cache_backbone(cache, request.weights, request.device, backbone)
        except BackboneError as error:
            return [*checks, Check("network", f"not run again: {error}", ran=False)]
        except CacheMismatchError as error:
            remedy = "Give the right file with --weights, or extract again."
            return [*checks, Check("network", str(error), (Issue("other weights", "error", str(error), remedy),))]
        names = cache.layers(request.layer)
        compared = PENULTIMATE if PENULTIMATE in names else names[0]
        with steps.step("network"):
            checks.append(check_network(cache, compared, backbone, rows[:_NETWORK_IMAGES], pixels[:_NETWORK_IMAGES]))
        if one_label:
            features = one_label if len(names) == 1 else cache.features("train", compared)
            with steps.step("scales"):
                checks.append(try_scales(cache, compared, backbone, features, indices, pixels))
        return checks


SAMPLE_CHECKS.register(IMAGES.name, ImageChecks(IMAGES.name))
