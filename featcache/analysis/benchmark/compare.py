"""`benchmark`: run all routes on the same images, views, split and metrics, and measure all their costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from featcache._utils.deprecation import warn_renamed
from featcache._utils.environment import check_writable, package_versions
from featcache._utils.formatting import format_differences, human_duration, split_names
from featcache._utils.locks import RUN_LOCK, exclusive_folder
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.regular_files import read_json
from featcache._utils.remote import display_name
from featcache.analysis.benchmark.outcomes import Comparison, gather_outcomes
from featcache.analysis.benchmark.routes import (
    LAYERS,
    ROUTES,
    BenchmarkOptions,
    changing_weights,
    config_of_route,
    routes_for,
)
from featcache.analysis.benchmark.runner import BenchmarkRunner
from featcache.backbones.devices import check_training_device
from featcache.backbones.factory import from_factory, is_factory
from featcache.backbones.frozen_network import FrozenNetwork
from featcache.core.model_card import write_json
from featcache.core.options import fields_of, manifest_keywords, takes_options
from featcache.core.specs import cached_augment, live_augment
from featcache.data.manifest import read_manifest
from featcache.data.modality import IMAGES, Modality
from featcache.errors import RunError
from featcache.extraction.pipelines.registry import check_backbone, select_pipeline
from featcache.finetuning.pipelines.registry import LIVE_PIPELINES
from featcache.heads.estimators import check_head
from featcache.training.config import TrainOptions, make_train_config

_REPEATS = 3  # seeds: a difference of two points between single seeds can be chance
_CONFIG = {name: fields_of(TrainOptions)[name].option.default for name in ("epochs", "batch_size", "lr")}


@takes_options(BenchmarkOptions)
def benchmark(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    routes: str | Sequence[str] | None = None,
    backbone: str | None = None,
    head: str = "auto",
    config: Mapping[str, Any] | None = None,
    repeats: int | None = None,
    train_precision: str | None = None,
    budget_s: float | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
    recipe: Mapping[str, Any] | None = None,
    **options: Unpack[BenchmarkOptions],
) -> Comparison:
    """Run the routes to a classifier, each in new processes, and measure their accuracy and cost.

    Finished routes stay in `out`: the same call after an interruption resumes, and a larger budget adds routes.

    Parameters
    ----------
    data : path
        Labelled images or texts; see `read_manifest`.
    out : path
        The folder for all runs: a new one, or that of the same benchmark.
    routes : str or sequence of str, optional
        Any of "cached" (extract once, fit a head), "tfidf" (for texts: TF-IDF with logistic regression), "frozen" (the
        frozen network run live in every epoch), "lpft" (fine-tuning that starts from a fitted head,
        Kumar et al. 2022), "finetune" and "scratch". None: all that are possible; for texts without "scratch".
    backbone : str or None, default None
        A name, see `load_backbone`, or "package.module:function", a function that returns the network with the same
        weights in each call; each process calls it. Such a network has no route "scratch".
    head : str, default "auto"
        The head of the route "cached", on the layers that it takes by default; see `fit_head`. LP-FT starts from it if
        it is a linear layer on the penultimate features. Otherwise LP-FT fits one: of this kind if that is linear, else
        "linear".
    config : mapping, optional
        Fields of `TrainConfig` for the live routes, such as {"epochs": 10}. LP-FT, and for texts also a head on the
        frozen encoder, have their own optimizer, learning rate and schedule (`config_of_route`).
    repeats : int, optional
        Number of seeds: seed, seed + 1, ...; the split stays the same. None: 1, or 3 with a budget, as far as they fit.
    train_precision : {"fp32", "bf16", "auto"}, optional
        Precision of the live routes, see `finetune`. None: that of the extraction, `precision`, so that the cache alone
        makes the difference; "auto" for fp16, in which no network is trained.
    budget_s : float, optional
        Seconds for the whole benchmark. Runs that do not fit are skipped and named, further seeds first; see
        `featcache.analysis.benchmark.budget`. None: no limit.
    overwrite : bool, default False
        Whether to start again in a folder that has a benchmark.
    progress : callable, bool or None
        Called as progress(step, done, total). True shows a bar.
    on_note : callable, optional
        Called with a description of the data before the work starts.
    recipe : mapping, optional
        Deprecated: the former name of `config`.
    {options}

    Returns
    -------
    Comparison
        The outcome of each route. `reach_verdict` gives a recommendation.

    Raises
    ------
    RunError
        An argument is invalid, `out` has other files or another benchmark, or no route fits into the budget.
    FeatcacheError
        The error of a route.

    Examples
    --------
    >>> import featcache
    >>> comparison = featcache.benchmark("photos", "report", routes=["cached", "frozen"])  # doctest: +SKIP
    >>> print(featcache.reach_verdict(comparison).text)  # doctest: +SKIP
    """
    if recipe is not None:
        warn_renamed("benchmark(recipe=...)", "benchmark(config=...)", stacklevel=3)
        config = recipe if config is None else config
    progress, weights, seed = as_callback(progress), options["weights"], options["seed"]
    check_training_device(options["device"])
    repeats = repeats or (1 if budget_s is None else _REPEATS)
    is_own = backbone is not None and is_factory(backbone)
    if is_own and weights != "pretrained":
        raise RunError(f"{backbone} returns a network with its own weights: drop --weights")
    routes = None if routes is None else split_names(routes)
    if is_own and "scratch" in (routes or ()):
        raise RunError(f"{backbone} returns a network with its own weights: drop the route scratch")
    if routes is not None and weights == "none" and "lpft" in routes:
        raise RunError("LP-FT needs a pretrained network, and weights are none: drop the route lpft.")
    unknown = [route for route in routes or () if route not in ROUTES]
    if unknown or routes == ():
        text = f"there is no route {', '.join(unknown) or '(none given)'}; use {', '.join(ROUTES)}"
        former = ". The head of the route cached chooses among the penultimate layer and the stages."
        raise RunError(f"{text}{former if 'stages' in unknown else ''}")
    make_train_config(config)  # an invalid field is refused before hours of extraction
    out = Path(out)
    check_writable(out / "settings.json")
    check_head(head)  # an invalid name is refused before hours of extraction
    check_backbone(backbone)
    own = _network_of(str(backbone)) if is_own else None
    network = {"network_sha256": own.weights_sha256} if own else {}
    manifest = read_manifest(data, **manifest_keywords(options), progress=progress).labeled("benchmark")
    pipeline, modality = select_pipeline(manifest, own or backbone, {**options}), manifest.modality
    backbone = backbone or pipeline.default_backbone
    config = {**_CONFIG, **LIVE_PIPELINES.get(modality.name).default_config("all", False), **(config or {})}
    chosen = _choose_routes(routes, modality, is_own, weights)
    samples = manifest.single_label("benchmark").samples
    understood = replace(manifest.summary(), name=display_name(data))
    if on_note:
        on_note(str(understood))
    train_precision = train_precision or ("auto" if options["precision"] == "fp16" else options["precision"])
    settings = {
        "data": os.path.abspath(data),
        "backbone": backbone,
        **_recorded(options),
        **network,
        "weights": weights,
        "views": options["views"],
        "head": head,
        "layers": LAYERS,
        "recipe": config,
        "precision": options["precision"],
        "train_precision": train_precision,
        "images": {split: len(samples.rows(split)) for split in ("train", "val", "test")},
        "images_sha256": samples.digest(),
        "seed": seed,
    }
    if modality is not IMAGES:  # folders of earlier versions lack it
        settings["modality"] = modality.name
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Give an empty or a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_folder(out, "compared in"):
        _claim(out, {**settings, "versions": package_versions()}, overwrite)
        runner = BenchmarkRunner(
            out / "work", settings, chosen, [seed + repeat for repeat in range(repeats)], budget_s, progress
        )
        runs = runner.run()
        if not runs:
            raise RunError(
                f"no route fits into {human_duration(budget_s or 0)}: {'; '.join(map(str, runner.skipped))}. Give a "
                f"larger budget, or fewer views, epochs or {modality.plural}."
            )
        outcomes = [
            outcome
            for route, by_seed in runs.items()
            for outcome in gather_outcomes(route, by_seed, runner.folder, config_of_route(route, settings))
        ]
        curves, no_curves = runner.curves() if "cached" in runs else ([], "")
    # Reports may be sent to others: they contain the names of the data and the weights, not their paths.
    names = {"data": display_name(data), "weights": Path(weights).name}
    requested: dict[str, Any] = {"routes": chosen, "repeats": repeats, "understood": understood.to_dict()}
    requested |= {"view_recipes": _view_recipes(options, modality)}
    requested |= {"budget_s": budget_s} if budget_s else {}
    return Comparison(
        outcomes,
        {**settings, **names, **requested},
        curves=curves,
        no_curves=no_curves,
        spending=runner.budget.usage() if runner.budget else None,
    )


_ALWAYS_RECORDED = ("image_size", "workers", "device", "val_fraction", "allow_leak")
_RECORDED_LATER = ("weights", "views", "precision", "seed")  # behind the others


def _recorded(options: BenchmarkOptions) -> dict[str, Any]:
    """Options for the settings of a benchmark, as JSON values; those of newer versions only where they are set."""
    used: dict[str, Any] = {**options}
    recorded = {name: used[name] for name in _ALWAYS_RECORDED}
    for name, field in fields_of(BenchmarkOptions).items():
        if name not in (*_ALWAYS_RECORDED, *_RECORDED_LATER) and used[name] != field.option.default:
            recorded[name] = list(used[name]) if isinstance(used[name], tuple) else used[name]
    return recorded


def _choose_routes(requested: Sequence[str] | None, modality: Modality, is_own: bool, weights: str) -> list[str]:
    """The routes to run, in order. Raises RunError for one that these samples do not have."""
    possible = routes_for(modality.name)
    if requested is None:
        left_out = {"scratch" if is_own else "lpft" if weights == "none" else ""}
        left_out |= set() if LIVE_PIPELINES.get(modality.name).trains_from_scratch else {"scratch"}
        return [route for route in possible if route not in left_out]
    if other := [route for route in requested if route not in possible]:
        raise RunError(f"the route {', '.join(other)} is not for {modality.plural}: use {', '.join(possible)}")
    return [route for route in possible if route in requested]


def _view_recipes(options: BenchmarkOptions, modality: Modality) -> dict[str, str | None]:
    """The recipes of the augmented views of the cached routes, None without views, and of the live ones."""
    augment, views = options["augment"], options["views"]
    return {
        "cached": cached_augment(augment, views, modality.name) if views else None,
        "live": live_augment(augment, modality.name),
    }


def _network_of(factory: str) -> FrozenNetwork:
    """The network of a factory. Raises BackboneError if its weights change from call to call."""
    first, second = (from_factory(factory, device="cpu") for _ in range(2))
    if first.weights_sha256 != second.weights_sha256:
        raise changing_weights(factory)
    return first


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Use the folder for this benchmark, or resume the same one in it. Refuse another one without `overwrite`."""
    path = out / "settings.json"
    if overwrite and path.exists():
        shutil.rmtree(out / "work", ignore_errors=True)
    if path.exists() and any(out.glob("work/*/result.json")):
        try:
            existing = dict(read_json(path))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{path} is damaged ({error}), so the settings of the existing runs are unknown. Give another "
                "folder, or start again with --overwrite."
            ) from error
        differing = [
            (name, existing.get(name), settings.get(name, "the default"))
            for name in {**settings, **existing}
            if existing.get(name) != settings.get(name)
        ]
        if differing:
            raise RunError(
                f"{out} contains a benchmark with {format_differences(differing)}. Give another folder, or replace it "
                "with --overwrite."
            )
    elif not path.exists() and any(not other.name.startswith(RUN_LOCK) for other in out.iterdir()):
        raise RunError(f"{out} holds other files. Give an empty or a new folder.")
    write_json(path, settings)
