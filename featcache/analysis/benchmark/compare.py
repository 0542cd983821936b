"""`benchmark`: all routes on the same images, views, split and metrics, with all their costs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache._utils.environment import check_writable, package_versions
from featcache._utils.formatting import human_duration
from featcache._utils.locks import RUN_LOCK, exclusive_folder
from featcache._utils.progress_bar import ProgressOption, as_callback
from featcache._utils.regular_files import read_json
from featcache._utils.remote import display_name
from featcache.analysis.benchmark.outcomes import Comparison, gather_outcomes
from featcache.analysis.benchmark.routes import ROUTES, changing_weights
from featcache.analysis.benchmark.runner import BenchmarkRunner
from featcache.backbones.factory import from_factory, is_factory
from featcache.backbones.sources.registry import check_name
from featcache.core.bit_depth import ValueRange
from featcache.core.model_card import write_json
from featcache.core.specs import EMBEDDED
from featcache.data.manifest import read_manifest
from featcache.errors import RunError
from featcache.heads.registry import make_head
from featcache.heads.tuning.families import TUNED_HEADS
from featcache.training.config import make_train_config

_REPEATS = 3  # seeds: of one alone a scatter of two points looks like a difference, the more images the surer


def benchmark(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    routes: Sequence[str] | None = None,
    backbone: str = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    head: str = "linear",
    augment: str = "tutorial",
    image_size: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    repeats: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    train_precision: str = "fp32",
    val_fraction: float = 0.2,
    allow_leak: bool = False,
    label_column: str | None = None,
    skip_missing: bool = False,
    value_range: ValueRange | None = None,
    budget_s: float | None = None,
    overwrite: bool = False,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
) -> Comparison:
    """Run the routes, each in fresh processes, and gather what they reached and cost.

    Finished routes are kept in `out`; the same call after a crash goes on with the rest.

    Parameters
    ----------
    routes : of "cached", "stages" (a head on all stages of the network), "frozen", "lpft" (fine-tuning that starts from
        the cached head), "finetune", "scratch". None: all; but LP-FT, where the weights are random.
    recipe : fields of `training.TrainConfig` for the live routes, such as {"epochs": 10}; LP-FT has optimizer, rate and
        schedule of its own, see `featcache.finetuning.strategy.LP_FT_DEFAULTS`.
    backbone : a name, see `load_backbone`, or "package.module:function", a function of your own that returns the
        network, with the same weights each time: each process calls it. Such a network has no route "scratch".
    value_range : see `extract`; None lets each route find it, which gives the same.
    repeats : seeds seed, seed + 1, ...; the split stays the same. None is 1, and with a budget 3, of which those
        that do not fit are left out.
    budget_s : seconds for all of it; None runs everything. Runs that would not fit are left out and named, further
        seeds first; how it is known beforehand what a run will take, see `featcache.analysis.benchmark.budget`. Another
        call with a larger budget goes on.
    overwrite : begin anew in a folder that holds another comparison, or the same.
    on_note : called with what was understood of the data, before the work starts.
    precision : of the extraction. train_precision : of the live routes, where "fp32" is what the tutorials do.

    Raises
    ------
    FeatcacheError : of a route; RunError, where no route fits into the budget, too.
    """
    progress = as_callback(progress)
    repeats = repeats or (1 if budget_s is None else _REPEATS)
    own = is_factory(backbone)
    if own and weights != "pretrained":
        raise RunError(f"{backbone} returns a network with its own weights: drop --weights")
    if own and "scratch" in (routes or ()):
        raise RunError(f"{backbone} returns a network with its own weights: drop the route scratch")
    if routes is None:
        left_out = "scratch" if own else "lpft" if weights == "none" else ""
        routes = [route for route in ROUTES if route != left_out]
    elif weights == "none" and "lpft" in routes:
        raise RunError("LP-FT trains a pretrained network on: with weights none there is none. Drop the route lpft.")
    unknown = [route for route in routes if route not in ROUTES]
    if unknown or not routes:
        raise RunError(f"there is no route {', '.join(unknown) or '(none given)'}; use {', '.join(ROUTES)}")
    recipe = {"epochs": 10, "batch_size": 32, "lr": 0.01, **(recipe or {})}
    make_train_config(recipe)  # a bad field is told before hours of extraction, as a bad head is
    chosen = [route for route in ROUTES if route in routes]
    out = Path(out)
    check_writable(out / "settings.json")
    if head not in ("sgd", "auto", *TUNED_HEADS):
        make_head(head)  # a bad name is told before hours of extraction
    columns: dict[str, Any] = {"label_column": label_column} if label_column else {}
    columns |= {"skip_missing": True} if skip_missing else {}
    check_name(backbone)
    network_sha256 = _weights_of(backbone) if own else ""
    manifest = read_manifest(data, val_fraction=val_fraction, allow_leak=allow_leak, progress=progress, **columns)
    columns |= {"value_range": list(value_range)} if value_range else {}
    columns |= {"network_sha256": network_sha256} if own else {}
    samples = manifest.single_label("benchmark").samples
    understood = replace(manifest.summary(), name=display_name(data))
    if on_note:
        on_note(str(understood))
    settings = {
        "data": os.path.abspath(data),
        "backbone": backbone,
        "augment": augment,
        "image_size": image_size,
        "workers": workers,
        "device": device,
        "val_fraction": val_fraction,
        "allow_leak": allow_leak,
        **columns,
        "weights": weights,
        "views": views,
        "head": head,
        "recipe": recipe,
        "precision": precision,
        "train_precision": train_precision,
        "images": {split: len(samples.rows(split)) for split in ("train", "val", "test")},
        "images_sha256": samples.digest(),
        "seed": seed,
    }
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file. Give an empty or a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_folder(out, "compared in"):
        _claim(out, {**settings, "versions": package_versions()}, overwrite)
        work = BenchmarkRunner(
            out / "work", settings, chosen, [seed + repeat for repeat in range(repeats)], budget_s, progress
        )
        runs = work.run()
        if not runs:
            raise RunError(
                f"no route fits into {human_duration(budget_s or 0)}: {'; '.join(map(str, work.left_out))}. Give a "
                "larger budget, or fewer views, epochs or images."
            )
        outcomes = [
            outcome for route, found in runs.items() for outcome in gather_outcomes(route, found, work.folder, recipe)
        ]
        curves, no_curves = work.curves() if "cached" in runs else ([], "")
    # Reports travel: they name the data and a weights file, not where these lie on this machine.
    names = {"data": display_name(data), "weights": Path(weights).name}
    asked: dict[str, Any] = {"routes": chosen, "repeats": repeats, "understood": understood.to_dict()}
    asked |= {"budget_s": budget_s} if budget_s else {}
    return Comparison(
        outcomes,
        {**settings, **names, **asked},
        curves=curves,
        no_curves=no_curves,
        spending=work.budget.spending() if work.budget else None,
    )


def _weights_of(factory: str) -> str:
    """The hash of a network of the user's own. Raises BackboneError where it has other weights at the next call."""
    first, second = (from_factory(factory, device="cpu").weights_sha256 for _ in range(2))
    if first != second:
        raise changing_weights(factory)
    return first


def _claim(out: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Take the folder, or take up the same comparison in it; refuse to mix two, unless the older is to be replaced."""
    path = out / "settings.json"
    if overwrite and path.exists():
        shutil.rmtree(out / "work", ignore_errors=True)
    if path.exists() and any(out.glob("work/*/result.json")):
        try:
            found = dict(read_json(path))
        except (ValueError, TypeError) as error:
            raise RunError(
                f"{path} is damaged ({error}), so that it is not known what the runs beside it are of. Give another "
                "folder, or begin anew with --overwrite."
            ) from error
        differing = [
            f"{name}={found.get(name)}, you asked for {settings.get(name)}"
            for name in {**settings, **found}
            if found.get(name) != settings.get(name)
        ]
        if differing:
            raise RunError(
                f"{out} holds a comparison with {'; '.join(differing)}. Give another folder, or replace it "
                "with --overwrite."
            )
    elif not path.exists() and any(not other.name.startswith(RUN_LOCK) for other in out.iterdir()):
        raise RunError(f"{out} holds other files. Give an empty or a new folder.")
    write_json(path, settings)
