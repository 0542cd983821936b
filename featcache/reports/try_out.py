"""`try_out`: from a folder of images to a head, a report and a list of probable label errors, in one call."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from featcache._utils.formatting import brief, plural, printable
from featcache._utils.progress_bar import Progress, ProgressOption, as_callback
from featcache._utils.remote import display_name
from featcache._utils.results import NotebookResult, Result
from featcache._utils.timing import PhaseTimer
from featcache.analysis.doctor.doctor import doctor
from featcache.analysis.doctor.findings import DoctorReport, Issue, IssueExample
from featcache.analysis.doctor.label_errors import LEAST_LIKELY
from featcache.backbones.backbone import Backbone
from featcache.backbones.factory import is_factory
from featcache.backbones.sources.registry import check_name
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.reuse import Loss
from featcache.core.bit_depth import ValueRange, format_range
from featcache.core.options import ViewCount, with_defaults
from featcache.core.specs import EMBEDDED, cached_augment
from featcache.data.input_notes import input_notes
from featcache.data.manifest import Manifest, read_manifest
from featcache.data.sources.foreign_folders import TRY_MARK
from featcache.errors import CacheMismatchError, HeadError
from featcache.extraction.extract import extract
from featcache.extraction.results import Extraction
from featcache.extraction.update import update
from featcache.heads.fit_head import HeadFit, fit_head
from featcache.reports.commands import format_command
from featcache.reports.pages.trial import write_trial_page

CACHE, HEAD, PAGE = "cache.h5", "head", "report.html"
_COMMAND_WIDTH = 60  # letters; the explanation of a longer command does not move to the right
VIEWS, BUDGET_S = with_defaults(ViewCount, {})["views"], 10.0
_CERTAIN_MARGIN = 0.8  # of a label that is called probably wrong
_LISTED = 3  # of each list in text
_FEW_IMAGES = 30  # val images; with fewer, the accuracy is imprecise


@dataclass(frozen=True, repr=False)
class Trial(Result, NotebookResult):
    """What `try_out` returns. `str()` is a summary with the next commands.

    Attributes
    ----------
    folder : Path
        The folder with cache.h5, head/ and report.html.
    data : str
        The data, as given.
    extraction : Extraction
    diagnosis : DoctorReport
    fit : HeadFit
    seconds : float
        Time of all steps but the page.
    own_network : bool
        Whether the network is the user's own, which later commands need again.
    settings : mapping
        How the data was read, and the network: a benchmark needs the same.
    own_settings : mapping
        Views, seed and budget_s if they are not the default.
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
        """Images whose label is probably wrong, the most suspicious first."""
        examples = self._label_examples(self.diagnosis.findings)
        return tuple(example for example in examples if (example.score or 0.0) >= _CERTAIN_MARGIN)

    @property
    def least_likely(self) -> tuple[IssueExample, ...]:
        """Images to check next, the least likely labels first; their labels may be right."""
        doubtful = {example.image for example in self.doubtful}
        examples = self._label_examples([*self.diagnosis.findings, *self.diagnosis.rankings])
        examples.sort(key=lambda example: -(example.score or 0.0))
        return tuple(example for example in examples if example.image not in doubtful)

    @staticmethod
    def _label_examples(issues: Sequence[Issue]) -> list[IssueExample]:
        labels = (issue for issue in issues if issue.kind in ("wrong labels", LEAST_LIKELY))
        return [example for issue in labels for example in issue.images if example.suggested]

    def __str__(self) -> str:
        lines = [*self.summary(), *self.labels()]
        extraction = self.extraction
        lines += input_notes(extraction.ignored, extraction.conflicts, extraction.skipped)
        end = f"It took {self.seconds:.0f} s. Figures and tables: {self.folder / PAGE}"
        return "\n".join([*lines, end, "Next:", *self.next_commands()])

    def summary(self) -> list[str]:
        """The data, the accuracy of the head, and the warnings of the doctor about anything but labels."""
        accuracy, cache = self.fit.accuracy, self.extraction.cache
        samples = cache.samples
        trained = int((cache.done[samples.rows("train")] > 0).sum())
        right = round(accuracy.accuracy * accuracy.n)
        labels = "all labels" if samples.multilabel else "the label"
        lines = [
            f"{plural(len(samples), 'image')} of {plural(len(samples.classes), 'class', 'classes')}; the head "
            f"({self.fit.name}) was trained on {trained}.",
            f"It predicts {labels} of {right} of {plural(accuracy.n, 'other image')} correctly "
            f"({accuracy.accuracy:.0%}; 95 % interval {accuracy.accuracy_low:.0%} to {accuracy.accuracy_high:.0%}).",
        ]
        if accuracy.n < _FEW_IMAGES:
            lines.append(f"{plural(accuracy.n, 'image')} are few for a measurement: the interval is wide.")
        selection = self.fit.selection
        skipped = [name for name, reason in selection.skipped if "budget" in reason] if selection else []
        if skipped:
            lines.append(
                f"Other heads ({', '.join(skipped)}) were not tried for lack of time: repeat the command with --budget "
                "1m to try them."
            )
        others = [
            issue for issue in self.diagnosis.findings if issue.severity != "note" and issue.kind != "wrong labels"
        ]
        return lines + [f"{issue.severity}: {issue.what} -> {issue.remedy}" for issue in others[:_LISTED]]

    def labels(self) -> list[str]:
        """Labels that are probably wrong, and labels to check next."""
        check = next((check for check in self.diagnosis.checks if check.name == "labels"), None)
        if check is None or not check.ran:
            return [f"Labels were {check.summary if check else 'not checked'}."]
        doubtful, others = self.doubtful, self.least_likely
        lines = []
        if len(doubtful) == 1:
            lines = [f"1 label is probably wrong: {_describe(doubtful[0])}."]
        elif doubtful:
            lines = [f"{len(doubtful)} labels are probably wrong, the most suspicious first:", *_list(doubtful)]
        if others:
            title = (
                "Check these labels next; they may be right" if doubtful else "No label is clearly wrong. Check first"
            )
            lines += [f"{title}:", *_list(others)]
        return lines or ["No label looks wrong."]

    def next_commands(self) -> list[str]:
        """Commands to run next, with what they do."""
        benchmark = {"out": f"{self.folder}-benchmark", "backbone": self._backbone_option(), **self.settings}
        folder, data = shlex.quote(str(self.folder)), shlex.quote(self.data)
        backbone = f" --backbone {self._backbone_option()}" if self.own_network else ""
        commands = {
            f"featcache predict {folder}/{HEAD} PHOTO{backbone}": "predict the class of a photo",
            f"featcache serve {folder}/{HEAD}{backbone}": "serve a web page that classifies photos",
            f"featcache doctor {folder}/{CACHE} {data}{backbone}": "list all problems of the data",
            self.own_command(): "run again after labels or photos have changed",
            format_command("benchmark", [self.data], benchmark): "measure whether fine-tuning is better",
        }
        width = min(max(map(len, commands)), _COMMAND_WIDTH)
        return [f"  {command:{width}}  # {purpose}" for command, purpose in commands.items()]

    def own_command(self) -> str:
        """The command line of this trial."""
        settings = {"out": self.folder, "backbone": self._backbone_option(), **self.settings, **self.own_settings}
        return format_command("try", [self.data], settings)

    def without_folders(self) -> Trial:
        """The same with the names of files and folders instead of their paths, for a page that others may read."""
        weights = self.settings.get("weights")
        settings = {**self.settings, "weights": weights and Path(weights).name}
        return replace(self, folder=Path(self.folder.resolve().name), data=display_name(self.data), settings=settings)

    def _backbone_option(self) -> str | None:
        """The value of --backbone; None for the default."""
        name = self.extraction.cache.spec.backbone
        if self.own_network:
            return name if is_factory(name) else "MODULE:FACTORY"
        return None if name == EMBEDDED else name

    def _json_fields(self) -> dict[str, Any]:
        """Those of the three steps, and the labels to check."""
        return {
            "folder": self.folder,
            "cache": self.folder / CACHE,
            "head": self.folder / HEAD,
            "page": self.folder / PAGE,
            "doubtful": [_as_json(example) for example in self.doubtful],
            "least_likely": [_as_json(example) for example in self.least_likely],
            "extract": self.extraction,
            "doctor": self.diagnosis,
            "fit": self.fit,
            "seconds": {"wall": self.seconds},
        }


def _describe(example: IssueExample) -> str:
    return f"{printable(example.image)} is labelled {example.label}, probably {example.suggested}"


def _describe_views(views: int, augment: str | None) -> str:
    return f"{plural(views, 'augmented view')} by {augment}" if views else "no augmented views"


def _list(examples: Sequence[IssueExample]) -> list[str]:
    more = [f"  and {len(examples) - _LISTED} more"] if len(examples) > _LISTED else []
    return [*(f"  {_describe(example)}" for example in examples[:_LISTED]), *more]


def _as_json(example: IssueExample) -> dict[str, Any]:
    values = {"image": example.image, "label": example.label}
    return {**values, "suggested": example.suggested, "score": example.score}


def try_out(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "featcache-try",
    *,
    backbone: str | Backbone | None = None,
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
    """Extract features, check them, fit the best head and write a report, in one call.

    Call it again after an interruption, or after images have changed: only missing features are extracted.

    Parameters
    ----------
    data : path
        Labelled images; see `read_manifest`.
    out : path, default "featcache-try"
        Folder for all files: cache.h5, head/, report.html.
    backbone : str, Backbone or None, default None
        The network; see `extract`.
    weights : str, default "pretrained"
        Its weights; see `extract`.
    views : int, default 0
        Augmented views per training image.
    image_size : int, optional
        Pixels of the network's input; see `extract`.
    device : str, default "auto"
        Where the network runs.
    label_column : str, optional
        The column of the labels; see `read_manifest`.
    skip_missing : bool, default False
        Whether files that a manifest names may be missing; see `read_manifest`.
    value_range : tuple of float, optional
        The values that become black and white; see `extract`.
    budget_s : float, default 10
        Seconds for the choice of the head.
    seed : int, default 0
        Seed of the split, the views and the folds.
    progress : callable, bool or None
        Called as progress(step, done, total). True shows a bar.
    on_note : callable, optional
        Called with remarks on the data.

    Returns
    -------
    Trial
        The results of the three steps. The head is in `out`/head.

    Raises
    ------
    ImageError
        `data` has no readable labelled images.
    BackboneError
        The network cannot be loaded.
    CacheError
        `out` has the cache of a trial with other settings.
    HeadError
        `out` has other files or a trial of other images, or no head can be fitted.

    Examples
    --------
    >>> import featcache
    >>> trial = featcache.try_out("photos", "trial", backbone="timm/test_resnet", weights="none", views=1, budget_s=1)
    >>> trial.fit.accuracy.n
    4
    """
    progress = as_callback(progress)
    timer, folder = PhaseTimer(), Path(out)
    backbone = backbone or EMBEDDED
    check_name(backbone)
    manifest = read_manifest(data, seed=seed, label_column=label_column, skip_missing=skip_missing, progress=progress)
    manifest.of_images("try").labeled("try")
    _prepare(folder)
    run = partial(
        extract, manifest, folder / CACHE, backbone=backbone, weights=weights, views=views, image_size=image_size,
        device=device, seed=seed, value_range=value_range, progress=progress, on_note=on_note,
    )  # fmt: skip
    try:
        extraction = run()
    except CacheMismatchError as error:
        _update(folder / CACHE, data, manifest, backbone, device, views, error.fields, progress, on_note)
        extraction = run()
    cache = extraction.cache
    diagnosis = doctor(cache, seed=seed, progress=progress)
    budget = None if cache.samples.multilabel else budget_s  # with several labels there is one head to try
    fit = fit_head(cache, folder / HEAD, budget_s=budget, seed=seed, progress=progress)
    is_own = not isinstance(backbone, str)
    settings = {
        "weights": None if is_own or weights == "pretrained" else weights,
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
    seconds = timer.seconds()["wall"]
    trial = Trial(folder, os.fspath(data), extraction, diagnosis, fit, seconds, is_own, settings, own_settings)
    write_trial_page(folder / PAGE, trial)
    return trial


def _prepare(folder: Path) -> None:
    """Create the folder, or use that of an earlier trial. Raises HeadError for a folder with other files."""
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / TRY_MARK).exists():
            raise HeadError(f"{folder} holds other files. Give an empty or a new folder with -o.")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRY_MARK).touch()
    except OSError as error:
        raise HeadError(f"{folder} cannot be created: {error.strerror}") from error


def _update(
    path: Path,
    data: str | os.PathLike[str],
    manifest: Manifest,
    backbone: str | Backbone,
    device: str,
    views: int,
    differing: Sequence[str],
    progress: Progress | None,
    on_note: Callable[[str], None] | None,
) -> None:
    """Update the cache of an earlier trial to these images and views, or remove it if it has other layers.

    Caches of older versions have other views or layers. A cache that differs in more is left as it is. Raises HeadError
    if it was made from mainly other images.

    differing : fields of the spec.
    """
    if not path.exists():
        return
    cache = FeatureCache.open(path)
    loss = Loss.between(cache, manifest.samples)
    if loss.is_large:
        raise HeadError(
            f"{path.parent} holds a trial of other images: {loss}, are not in {os.fspath(data)}. Give another folder "
            "with -o, or delete that one."
        )
    if not set(differing) <= {"layers", "views", "augment"}:
        return
    if "layers" in differing:
        if on_note:
            on_note(f"extracts {path} again: it has the layers of an older version ({brief(cache.spec.layers)})")
        path.unlink()
        return
    changes = cache.samples.differences(manifest.samples)
    augment = cached_augment(None, views) if views else None
    if differing:
        before = _describe_views(cache.spec.views, cache.spec.view.augment)
        changes = [f"{_describe_views(views, augment)} instead of {before}", *changes]
    if on_note and changes:
        on_note(f"updates {path}: {'; '.join(changes)}")
    network = None if isinstance(backbone, str) else backbone
    update(path, data, views=views, augment=augment, backbone=network, device=device, progress=progress)
