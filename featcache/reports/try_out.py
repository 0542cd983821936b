"""`try_out`: from a folder of images to a head, a report and a list of doubtful labels, in one call."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.formatting import printable
from featcache._utils.notebook import NotebookResult
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.remote import display_name
from featcache._utils.timing import PhaseTimer
from featcache.analysis.doctor.examine import doctor
from featcache.analysis.doctor.findings import DoctorReport, Issue, IssueExample
from featcache.analysis.doctor.label_errors import LEAST_LIKELY
from featcache.backbones.backbone import Backbone
from featcache.backbones.factory import is_factory
from featcache.backbones.sources.registry import check_name
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import Loss
from featcache.core.bit_depth import ValueRange, format_range
from featcache.core.specs import EMBEDDED
from featcache.data.input_notes import input_notes
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.foreign_folders import TRY_MARK
from featcache.errors import CacheMismatchError, HeadError
from featcache.extraction.extract import extract
from featcache.extraction.results import Extraction
from featcache.extraction.update import update
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.reports.commands import format_command
from featcache.reports.pages import write_trial_page

CACHE, HEAD, PAGE = "cache.h5", "head", "report.html"
_COMMAND = 60  # letters of a command, beyond which its explanation does not move to the right
VIEWS, BUDGET_S = 4, 10.0
_SURE = 0.8  # score of a doubted label that is named
_NAMED = 3  # of each list in text
_FEW = 30  # val images, below which figures say little


@dataclass(frozen=True, repr=False)
class Trial(NotebookResult):
    """What `try_out` returns.

    Attributes
    ----------
    folder : Path. It holds cache.h5, head/ and report.html.
    data : str. As it was given.
    extraction, diagnosis, fit : results of the three steps.
    seconds : float. All of it took, but for the page.
    own_network : bool. Whether the network is the user's own, which later commands want again.
    settings : of reading the data and of the network, by which a benchmark measures the same.
    own_settings : the others, views, seed and budget_s, where they are not the default.
    """

    folder: Path
    data: str
    extraction: Extraction
    diagnosis: DoctorReport
    fit: HeadFit
    seconds: float
    own_network: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    own_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doubtful(self) -> tuple[IssueExample, ...]:
        """Images whose label is doubted most, the most doubted first."""
        return tuple(one for one in self._suspects(self.diagnosis.findings) if (one.score or 0.0) >= _SURE)

    @property
    def least_likely(self) -> tuple[IssueExample, ...]:
        """The next ones to look at, whose label is not surely wrong: a ranking, the least likely labels first."""
        surely = {one.image for one in self.doubtful}
        ranked = [*self._suspects(self.diagnosis.findings), *self._suspects(self.diagnosis.rankings)]
        ranked.sort(key=lambda one: -(one.score or 0.0))
        return tuple(one for one in ranked if one.image not in surely)

    @staticmethod
    def _suspects(findings: Sequence[Issue]) -> list[IssueExample]:
        labels = (finding for finding in findings if finding.kind in ("wrong labels", LEAST_LIKELY))
        return [one for finding in labels for one in finding.images if one.suggested]

    def __str__(self) -> str:
        """In plain words, with what to type next."""
        lines = [*self.summary(), *self.labels()]
        made = self.extraction
        lines += input_notes(made.ignored, made.conflicts, made.skipped)
        took = f"Took {self.seconds:.0f} s. Pictures and figures: {self.folder / PAGE}"
        return "\n".join([*lines, took, "Next:", *self.next_commands()])

    def summary(self) -> list[str]:
        """What was learnt and how well, and what the doctor warns of besides labels."""
        found, cache = self.fit.accuracy, self.extraction.cache
        samples = cache.samples
        trained = int((cache.done[samples.rows("train")] > 0).sum())
        right = round(found.accuracy * found.n)
        several = samples.multilabel
        lines = [
            f"{len(samples)} images of {len(samples.classes)} classes; the head ({self.fit.name}) learnt from "
            f"{trained}.",
            f"{right} of {found.n} {'have exactly the right labels' if several else 'right'}, of images that it was "
            f"not trained on ({found.accuracy:.0%}; 95 % interval {found.accuracy_low:.0%} to "
            f"{found.accuracy_high:.0%}).",
        ]
        if found.n < _FEW:
            lines.append(f"{found.n} images are few to judge by: the interval is wide.")
        selection = self.fit.selection
        missed = [name for name, why in selection.missed if "budget" in why] if selection else []
        if missed:
            lines.append(
                f"Other heads ({', '.join(missed)}) were not tried, as the time was up: the same command "
                "with --budget 1m tries them."
            )
        others = [one for one in self.diagnosis.findings if one.severity != "note" and one.kind != "wrong labels"]
        return lines + [f"{one.severity}: {one.what} -> {one.todo}" for one in others[:_NAMED]]

    def labels(self) -> list[str]:
        """Which labels may be wrong, and which to look at next."""
        check = next((one for one in self.diagnosis.checks if one.name == "labels"), None)
        if check is None or not check.looked:
            return [f"Wrong labels: {check.said if check else 'not looked at'}."]
        doubtful, others = self.doubtful, self.least_likely
        lines = []
        if len(doubtful) == 1:
            lines = [f"One image may be mislabelled: {_rather(doubtful[0])}."]
        elif doubtful:
            lines = [f"{len(doubtful)} images may be mislabelled, the most doubtful first:", *_listed(doubtful)]
        if others:
            first = "Not surely wrong. To look at next" if doubtful else "No label is surely wrong. To look at first"
            lines += [f"{first}, the least likely ones:", *_listed(others)]
        return lines or ["No label looks wrong."]

    def next_commands(self) -> list[str]:
        """What to type next, and what it brings."""
        benchmark = {"out": f"{self.folder}-benchmark", "backbone": self._network(), **self.settings}
        command = format_command("benchmark", [self.data], benchmark)
        folder, data = shlex.quote(str(self.folder)), shlex.quote(self.data)
        given = f" --backbone {self._network()}" if self.own_network else ""
        steps = {
            f"featcache predict {folder}/{HEAD} PHOTO{given}": "what is on a photo",
            f"featcache serve {folder}/{HEAD}{given}": "a page that takes photos",
            f"featcache doctor {folder}/{CACHE} {data}{given}": "all that looks wrong",
            self.own_command(): "again, when labels or photos have changed",
            command: "whether fine-tuning would be better",
        }
        width = min(max(map(len, steps)), _COMMAND)
        return [f"  {line:{width}}  # {what}" for line, what in steps.items()]

    def own_command(self) -> str:
        """The command line that does the same."""
        settings = {"out": self.folder, "backbone": self._network(), **self.settings, **self.own_settings}
        return format_command("try", [self.data], settings)

    def travelling(self) -> Trial:
        """The same for a page, which does not tell where things lie on this machine: by their last names."""
        weights = self.settings.get("weights")
        settings = {**self.settings, "weights": weights and Path(weights).name}
        return replace(self, folder=Path(self.folder.resolve().name), data=display_name(self.data), settings=settings)

    def _network(self) -> str | None:
        """As --backbone names it; None where nobody needs to."""
        name = self.extraction.cache.spec.backbone
        if self.own_network:
            return name if is_factory(name) else "MODULE:FACTORY"
        return None if name == EMBEDDED else name

    def to_dict(self) -> dict[str, Any]:
        """JSON values: those of the three steps, the doubtful labels, and the least likely of the others."""
        return {
            "folder": str(self.folder),
            "cache": str(self.folder / CACHE),
            "head": str(self.folder / HEAD),
            "page": str(self.folder / PAGE),
            "doubtful": [_as_json(one) for one in self.doubtful],
            "least_likely": [_as_json(one) for one in self.least_likely],
            "extract": self.extraction.to_dict(),
            "doctor": self.diagnosis.to_dict(),
            "fit": self.fit.to_dict(),
            "seconds": {"wall": self.seconds},
        }


def _rather(one: IssueExample) -> str:
    return f"{printable(one.image)}, which says {one.label}, rather {one.suggested}"


def _listed(images: Sequence[IssueExample]) -> list[str]:
    more = [f"  and {len(images) - _NAMED} more"] if len(images) > _NAMED else []
    return [*(f"  {_rather(one)}" for one in images[:_NAMED]), *more]


def _as_json(one: IssueExample) -> dict[str, Any]:
    return {"image": one.image, "label": one.label, "suggested": one.suggested, "score": one.score}


def try_out(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "featcache-try",
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    views: int = VIEWS,
    image_size: int | None = None,
    device: str = "auto",
    label_column: str | None = None,
    skip_missing: bool = False,
    value_range: ValueRange | None = None,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
) -> Trial:
    """Extract features, look for faults, fit the best head and write a report.

    Run it again after an interruption, or when images have changed: only what is missing is extracted.

    Parameters
    ----------
    data : labelled images, see `read_manifest`.
    out : folder for all files: cache.h5, head/, report.html.
    backbone, weights, views, image_size, device, value_range : see `extract`.
    label_column, skip_missing : see `read_manifest`.
    budget_s : float, default 10. Seconds for the choice of the head.
    seed : int, default 0. Of the split, the views and the folds.
    progress, on_note : callbacks, see `extract`.

    Raises
    ------
    ImageError, BackboneError, CacheError, HeadError
    """
    progress = as_callback(progress)
    watch, folder = PhaseTimer(), Path(out)
    check_name(backbone)
    manifest = read_manifest(data, seed=seed, label_column=label_column, skip_missing=skip_missing, progress=progress)
    _prepare(folder)
    run = partial(
        extract, manifest, folder / CACHE, backbone=backbone, weights=weights, views=views, image_size=image_size,
        device=device, seed=seed, value_range=value_range, progress=progress, on_note=on_note,
    )  # fmt: skip
    try:
        extraction = run()
    except CacheMismatchError:
        _catch_up(folder / CACHE, data, manifest, backbone, device, progress, on_note)
        extraction = run()
    cache = extraction.cache
    diagnosis = doctor(cache, seed=seed, progress=progress)
    head = "linear" if cache.samples.multilabel else "auto"
    budget = None if head == "linear" else budget_s
    fit = fit_head(cache, folder / HEAD, head=head, budget_s=budget, seed=seed, progress=progress)
    own = not isinstance(backbone, str)
    same = {
        "weights": None if own or weights == "pretrained" else weights,
        "image_size": image_size,
        "value_range": value_range and format_range(value_range),
        "label_column": label_column,
        "skip_missing": skip_missing,
    }
    own_settings = {
        "views": None if views == VIEWS else views,
        "seed": seed or None,
        "budget_s": None if budget_s == BUDGET_S else budget_s,
    }
    seconds = watch.seconds()["wall"]
    trial = Trial(folder, os.fspath(data), extraction, diagnosis, fit, seconds, own, same, own_settings)
    write_trial_page(folder / PAGE, trial)
    return trial


def _prepare(folder: Path) -> None:
    """Make the folder, or take one that an earlier trial has made. Raises HeadError for a folder of other files."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / TRY_MARK).exists():
            raise HeadError(f"{folder} holds other files. Give an empty or a new folder with -o.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRY_MARK).touch()
    except OSError as error:
        raise HeadError(f"{folder} cannot be made: {error.strerror}") from error


def _catch_up(
    path: Path,
    data: str | os.PathLike[str],
    manifest: Manifest,
    backbone: str | Backbone,
    device: str,
    progress: Progress | None,
    on_note: Callable[[str], None] | None,
) -> None:
    """Bring the cache of an earlier trial up to date with its images; of mainly other images, raise HeadError."""
    if not path.exists():
        return
    cache = FeatureCache.open(path)
    loss = Loss.between(cache, manifest.samples)
    if loss.is_large:
        raise HeadError(
            f"{path.parent} holds a trial of other images: {loss}, are not in {os.fspath(data)}. Give another folder "
            "with -o, or remove that one."
        )
    if changes := cache.samples.differences(manifest.samples):
        if on_note:
            on_note(f"brings {path} up to date: {'; '.join(changes)}")
        own = None if isinstance(backbone, str) else backbone
        update(path, data, backbone=own, device=device, progress=progress)
