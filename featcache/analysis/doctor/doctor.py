"""`doctor`: check a cache and its images or texts for problems, with a remedy for each."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache._utils.formatting import brief, plural
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.timing import PhaseTimer
from featcache.analysis.doctor.costs import expected_seconds
from featcache.analysis.doctor.duplicates import check_alike, find_copies, find_shared_groups
from featcache.analysis.doctor.feature_checks import (
    check_values,
    check_views,
    compare_views,
    effective_rank,
    find_non_finite,
    measure_spread,
    non_finite_check,
)
from featcache.analysis.doctor.findings import Check, DoctorReport, Issue, Severity, name_row
from featcache.analysis.doctor.label_errors import check_labels
from featcache.analysis.doctor.neighbors import K
from featcache.analysis.doctor.samples.base import DataChecks
from featcache.analysis.doctor.samples.registry import sample_checks
from featcache.analysis.doctor.words import Words
from featcache.backbones.backbone import Backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import Features
from featcache.core.rng import content_order
from featcache.core.samples import LABELED_SPLITS, SPLITS, UNLABELED, Samples, count_images, strata
from featcache.core.specs import PENULTIMATE, is_arrays
from featcache.core.weighted_progress import WeightedProgress
from featcache.errors import CacheIncompleteError
from featcache.heads.layer_scaling import standardize_layers

if TYPE_CHECKING:
    from torch import nn

MAX_IMAGES = 50_000  # that are compared with each other, and whose labels are checked
_MAX_BYTES = 2**29
_RANK_IMAGES, _VIEW_IMAGES = 2000, 400  # images of a check


class _Sample(NamedTuple):
    """The compared images: rows of the cache (n,), their clean features (n, d), float32, and samples."""

    rows: NDArray[np.int64]
    x: NDArray[np.float32]
    samples: Samples


def doctor(
    cache: str | os.PathLike[str] | FeatureCache,
    data: str | os.PathLike[str] | None = None,
    *,
    layer: str = PENULTIMATE,
    backbone: Backbone | nn.Module | None = None,
    weights: str | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: ProgressOption = None,
) -> DoctorReport:
    """Check the features, labels and splits of a cache for problems; with `data` also how it was made.

    The checks find uninformative features, augmented views that are identical or unrelated to their image, duplicates
    (also across splits), outliers, label errors (confident learning, Northcutt, Jiang and Chuang 2021) and classes
    that overlap.

    The time is about that of one pass over the features and of fitting one head. More than 6,000 images are compared
    with similar ones only, and of more than 50,000 some are drawn. `Check.limits` and the report tell so.

    Parameters
    ----------
    cache : path or FeatureCache
        A cache with train images, or with images that have no label yet. Those are in all checks but the ones of
        labels.
    data : path, optional
        What the cache was made from. Some of its images run through the network again; of texts the issues get the
        beginnings.
    layer : str, default "penultimate"
        One layer, several joined by commas, or a set; see `featcache.core.layer_names`. Several layers are scaled to
        equal influence; the network is compared on the penultimate layer, or else the first one.
    backbone : Backbone or torch.nn.Module, optional
        The network that made the cache, if it cannot be loaded by its name.
    weights : str, optional
        The file of the network's weights, if it was moved.
    device : str, default "auto"
        Where the network runs.
    seed : int, default 0
        Seed of the folds, and of the choice of images if there are more than 50,000.
    progress : callable, bool or None
        Called as progress("doctor", done, 1000): the part of the expected time that is over. True shows a bar.

    Returns
    -------
    DoctorReport
        The checks with their issues. Its `status` is 0 without warnings, 3 with warnings and 4 with errors.

    Raises
    ------
    CacheError
        The cache cannot be read, or has neither train images nor images without a label.
    EmptyFolderError
        `data` does not match the cache.

    Examples
    --------
    >>> import numpy as np
    >>> import featcache
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 20)) + 3 * y[:, None]
    >>> x[8] = x[2]
    >>> report = featcache.doctor(featcache.FeatureCache.from_arrays(x, y))
    >>> [issue.kind for issue in report.findings]
    ['copies']
    """
    timer = PhaseTimer()
    cache = FeatureCache.open(cache)
    if data is not None:
        cache.require_images(f"a check of the {cache.spec.modality}s")
    parts = {split: cache.features(split, layer) for split in SPLITS}
    parts = {split: features for split, features in parts.items() if len(features.samples)}
    if not {"train", UNLABELED} & parts.keys():
        raise CacheIncompleteError(f"{cache.path} has no readable train {cache.spec.modality}s")
    imports = not is_arrays(cache.spec.backbone) and backbone is None and "timm" not in sys.modules
    runs_network = data is not None and sample_checks(cache.spec.modality).runs_network
    steps = _expect(parts, imports, runs_network, as_callback(progress))
    images, checks = _check_all(cache, parts, data, layer, backbone, weights, device, seed, steps)
    steps.end()
    return DoctorReport(cache.path, layer, images, tuple(checks), timer.seconds()["wall"], cache.spec.modality)


def _expect(
    parts: dict[str, Features], imports: bool, with_images: bool, progress: Progress | None
) -> WeightedProgress:
    """The progress of all steps, by the time that they are expected to take."""
    shapes = {split: features.x.shape for split, features in parts.items()}
    images = {split: shape[0] for split, shape in shapes.items()}
    first = next(iter(parts.values()))
    train, d, classes = images.get("train", 0), first.x.shape[2], max(1, len(first.samples.classes))
    values = sum(n * views * d for n, views, d in shapes.values())
    sample, checked = min(sum(images.values()), _most_images(d)), max(1, min(train, MAX_IMAGES))
    held_out = images.get("val", 0) + images.get("test", 0)
    seconds = expected_seconds(values, sample, checked, held_out, d, classes, imports, with_images)
    return WeightedProgress(progress, "doctor", seconds)


def _check_all(
    cache: FeatureCache, parts: dict[str, Features], data: Any, layer: str, backbone: Any, weights: str | None,
    device: str, seed: int, steps: WeightedProgress,
) -> tuple[int, list[Check]]:  # fmt: skip
    """The number of images with features, and all checks."""
    checks, samples = list[Check](), sample_checks(cache.spec.modality)
    words = samples.words
    with steps.step("images"):
        checks.append(_check_images(cache, words))
    with steps.step("input"):
        checks.append(samples.check_input(cache, backbone, weights))
    rows = np.concatenate([np.flatnonzero((cache.samples.split == SPLITS.index(s)) & (cache.done > 0)) for s in parts])
    with steps.step("values"):
        non_finite = find_non_finite(features.x for features in parts.values())
        if len(non_finite):
            images = tuple(name_row(cache.samples, int(rows[index])) for index in non_finite)
            return len(rows), [*checks, non_finite_check(images, words)]
        first = next(iter(parts.values()))  # train, unless no image has a label yet
        widths = first.concatenated.widths if first.concatenated else ()
        spread = measure_spread((features.lazy_view(0) for features in parts.values()), widths)
        if widths:
            scale = standardize_layers(first)
            parts = {split: features.scaled(scale) for split, features in parts.items()}
        sample = _draw_sample(cache, parts, rows, seed)
        ranked = sample.samples.rows(next(iter(parts)))[:: max(1, len(sample.rows) // _RANK_IMAGES)]
        rank = effective_rank(sample.x[ranked], strata(sample.samples.labels[ranked]))
        values = check_values(spread, rank, words)
    checks.append(values)
    collapsed = any(issue.kind == "collapse" for issue in values.findings)
    with steps.step("views"):
        checks.append(_check_views(cache, parts.get("train"), collapsed, seed, words))
    with steps.step("duplicates") as progress:
        checks += check_alike(sample.x, sample.samples, len(rows), collapsed, progress, words)
    with steps.step("labels") as progress:
        held_out = [parts[split] for split in parts if split not in ("train", UNLABELED)]
        checks += check_labels(parts.get("train"), held_out, MAX_IMAGES, seed, progress, words)
    if data is not None:
        request = DataChecks(cache, data, layer, parts.get("train"), backbone, weights, device, seed, steps)
        checks = samples.check_data(checks, request)
    return len(rows), checks


def _most_images(width: int) -> int:
    """The number of images that can be compared with each other."""
    return max(2 * K, min(MAX_IMAGES, _MAX_BYTES // (4 * width)))


def _draw_sample(cache: FeatureCache, parts: dict[str, Features], rows: NDArray[np.int64], seed: int) -> _Sample:
    """All images, or as many as can be compared with each other, those with a label first."""
    most = _most_images(next(iter(parts.values())).x.shape[2])
    order = content_order(cache.samples.sha256[rows], seed, "examine")
    is_unlabeled = cache.samples.split[rows[order]] == SPLITS.index(UNLABELED)
    drawn = np.sort(order[np.argsort(is_unlabeled, kind="stable")][:most])
    blocks, start = [], 0
    for features in parts.values():
        n = len(features.samples)
        indices = drawn[(drawn >= start) & (drawn < start + n)] - start
        blocks.append(np.asarray(features.lazy_view(0)[indices], np.float32))
        start += n
    return _Sample(rows[drawn], np.concatenate(blocks), cache.samples.take(rows[drawn]))


def _check_images(cache: FeatureCache, words: Words) -> Check:
    """Exact duplicates, skipped samples and class counts: what needs no features."""
    samples = cache.samples
    readable = {split: cache.readable_rows(split) for split in SPLITS}
    counts = {split: count_images(samples.labels[readable[split]], len(samples.classes)) for split in LABELED_SPLITS}
    copies = [(a, b) for a, b in samples.copies() if cache.done[a] and cache.done[b]]
    issues = find_copies(samples, copies, words) + find_shared_groups(samples, words)
    if cache.skipped:
        reasons = sorted({reason for _, reason in cache.skipped})
        were = "was" if len(cache.skipped) == 1 else "were"
        what = f"{plural(len(cache.skipped), words.sample)} {were} skipped: {'; '.join(reasons[:3])}"
        examples = tuple(name_row(samples, samples.ids.index(name)) for name, _ in cache.skipped)
        issues.append(Issue("skipped", "note", what, "Fix or delete them, then run `featcache update`.", examples))
    issues += _class_count_issues(samples, counts, words) if samples.classes else []
    train = counts["train"]
    images = ", ".join(f"{len(rows)} {split}" for split, rows in readable.items() if len(rows))
    classes = "no class yet"
    if samples.classes:
        n_classes = plural(len(samples.classes), "class", "classes")
        classes = f"{n_classes} with {train.min()} to {train.max()} train {words.samples}"
    summary = f"{images}, {classes}, {plural(len(copies), 'exact duplicate')}"
    return Check(words.samples, summary, tuple(issues))


def _class_count_issues(samples: Samples, counts: dict[str, NDArray[np.int64]], words: Words) -> list[Issue]:
    """Imbalanced classes, and classes without images in a split."""
    issues = []
    train = counts["train"]
    fewest = int(train[train > 0].min(initial=train.max()))
    if fewest * 20 < train.max():
        rare, common = samples.classes[train.tolist().index(fewest)], samples.classes[int(train.argmax())]
        what = f"{common} has {plural(int(train.max()), f'train {words.sample}')}, {rare} has {fewest}"
        remedy = "Fit with -p class_weight=balanced, and compare the recall of each class instead of the accuracy."
        issues.append(Issue("imbalance", "note", what, remedy))
    remedies: tuple[tuple[str, Severity, str], ...] = (
        ("train", "warning", f"No head can predict these classes: add train {words.samples}, or remove the class."),
        ("val", "note", f"Their recall cannot be measured: add val {words.samples}."),
    )
    for split, severity, remedy in remedies:
        empty = [name for name, count in zip(samples.classes, counts[split], strict=True) if not count]
        if empty and len(samples.rows(split)):
            what = f"{split} has no readable {words.samples} of {brief(empty)}"
            issues.append(Issue(f"missing in {split}", severity, what, remedy))
    return issues


def _check_views(cache: FeatureCache, train: Features | None, collapsed: bool, seed: int, words: Words) -> Check:
    if collapsed:
        return Check("views", "not checked: the features are nearly equal", ran=False)
    if train is None or not train.views:
        return Check("views", "not checked: train has no augmented views", ran=False)
    if len(train.samples) < 2:
        return Check("views", f"not checked: a single train {words.sample} cannot be compared", ran=False)
    rows = np.sort(content_order(train.samples.sha256, seed, "examine")[:_VIEW_IMAGES])
    statistics = compare_views(np.asarray(train.take(rows).x[:, :9]), cache.spec.precision)
    return check_views(statistics, len(rows), min(train.views, 8), cache.spec.view.augment, words)
