"""`try_out`: from a folder of images to a head, a report and a list of doubtful labels, in one call."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featcache.backbones import Backbone
from featcache.bitdepth import ValueRange, format_range
from featcache.commands import spell_command
from featcache.doctor import examine
from featcache.errors import HeadError
from featcache.extraction import Extraction, extract
from featcache.findings import Diagnosis, Suspect
from featcache.fitting import HeadFit, fit_head
from featcache.foreign_folders import TRY_MARK
from featcache.manifest import read_manifest
from featcache.network_names import check_name
from featcache.notebook import NotebookResult
from featcache.own_network import is_factory
from featcache.pages import write_head_page
from featcache.progress_bar import ProgressOption, as_callback
from featcache.report import Stopwatch, printable
from featcache.spec import EMBEDDED

CACHE, HEAD, PAGE = "cache.h5", "head", "report.html"
_SURE = 0.8  # score of a doubted label that is named
_NAMED = 3
_FEW = 30  # val images, below which figures say little


@dataclass(frozen=True, repr=False)
class Trial(NotebookResult):
    """What `try_out` returns.

    Attributes
    ----------
    folder : Path. It holds cache.h5, head/ and report.html.
    data : str. As it was given.
    extraction, diagnosis, fit : results of the three steps.
    seconds : float. All of it took.
    own_network : bool. Whether the network is the user's own, which later commands want again.
    settings : of reading the data and of the network, by which a benchmark measures the same.
    """

    folder: Path
    data: str
    extraction: Extraction
    diagnosis: Diagnosis
    fit: HeadFit
    seconds: float
    own_network: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def doubtful(self) -> tuple[Suspect, ...]:
        """Images whose label is doubted most, the most doubted first."""
        return tuple(one for one in self._doubted() if (one.score or 0.0) >= _SURE)

    def _doubted(self) -> list[Suspect]:
        """Images whose label is doubted at all, the most doubted first."""
        labels = (finding for finding in self.diagnosis.findings if finding.kind == "wrong labels")
        return [one for finding in labels for one in finding.images if one.suggested]

    def __str__(self) -> str:
        """In plain words, with what to type next."""
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
            lines.append(f"Not tried, as the time was up: {', '.join(missed)}. For these: --budget 1m.")
        lines += self._doubts()
        others = [one for one in self.diagnosis.findings if one.severity != "note" and one.kind != "wrong labels"]
        lines += [f"{one.severity}: {one.what} -> {one.todo}" for one in others[:_NAMED]]
        skipped = self.extraction.skipped
        if skipped:
            lines.append(
                f"{len(skipped)} images could not be read, for example {printable(skipped[0][0])}: {skipped[0][1]}"
            )
        folder, data = shlex.quote(str(self.folder)), shlex.quote(self.data)
        name = self.extraction.cache.spec.backbone
        given = f" --backbone {name if is_factory(name) else 'MODULE:FACTORY'}" if self.own_network else ""
        benchmark = {"out": f"{self.folder}-benchmark", "backbone": None if name == EMBEDDED else name, **self.settings}
        if self.own_network:
            benchmark["backbone"] = name if is_factory(name) else "MODULE:FACTORY"
        lines += [
            f"Took {self.seconds:.0f} s. Pictures and figures: {self.folder / PAGE}",
            "Next:",
            f"  featcache predict {folder}/{HEAD} PHOTO{given}        what is on a photo",
            f"  featcache serve {folder}/{HEAD}{given}                a page that takes photos",
            f"  featcache doctor {folder}/{CACHE} {data}{given}       all that looks wrong",
            f"  {spell_command('benchmark', [self.data], benchmark)}   whether fine-tuning would be better",
        ]
        return "\n".join(lines)

    def _doubts(self) -> list[str]:
        doubtful = self.doubtful
        if not doubtful:
            check = next((one for one in self.diagnosis.checks if one.name == "labels"), None)
            if check is None or not check.looked:
                return [f"Wrong labels: {check.said if check else 'not looked at'}."]
            doubted = self._doubted()
            if not doubted:
                return ["No label looks wrong."]
            return [f"No label is surely wrong; {check.said}. Look at {_rather(doubted[0])}."]
        if len(doubtful) == 1:
            return [f"One image may be mislabelled: {_rather(doubtful[0])}."]
        named = [f"  {_rather(one)}" for one in doubtful[:_NAMED]]
        more = [f"  and {len(doubtful) - _NAMED} more"] if len(doubtful) > _NAMED else []
        return [f"{len(doubtful)} images may be mislabelled, the most doubtful first:", *named, *more]

    def to_dict(self) -> dict[str, Any]:
        """JSON values: those of the three steps, and the doubtful labels."""
        return {
            "folder": str(self.folder),
            "cache": str(self.folder / CACHE),
            "head": str(self.folder / HEAD),
            "page": str(self.folder / PAGE),
            "doubtful": [
                {"image": one.image, "label": one.label, "suggested": one.suggested, "score": one.score}
                for one in self.doubtful
            ],
            "extract": self.extraction.to_dict(),
            "doctor": self.diagnosis.to_dict(),
            "fit": self.fit.to_dict(),
            "seconds": {"wall": self.seconds},
        }


def _rather(one: Suspect) -> str:
    return f"{printable(one.image)}, which says {one.label}, rather {one.suggested}"


def try_out(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "featcache-try",
    *,
    backbone: str | Backbone = EMBEDDED,
    weights: str = "pretrained",
    views: int = 4,
    image_size: int | None = None,
    device: str = "auto",
    label_column: str | None = None,
    skip_missing: bool = False,
    value_range: ValueRange | None = None,
    budget_s: float = 10.0,
    seed: int = 0,
    progress: ProgressOption = None,
    on_note: Callable[[str], None] | None = None,
) -> Trial:
    """Extract features, look for faults, fit the best head and write a report.

    Run it again after an interruption: extraction goes on where it stopped, the rest takes seconds.

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
    watch, folder = Stopwatch(), Path(out)
    check_name(backbone)
    manifest = read_manifest(data, seed=seed, label_column=label_column, skip_missing=skip_missing, progress=progress)
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / TRY_MARK).touch()
    except OSError as error:
        raise HeadError(f"{folder} cannot be made: {error.strerror}") from error
    extraction = extract(
        manifest, folder / CACHE, backbone=backbone, weights=weights, views=views, image_size=image_size,
        device=device, seed=seed, value_range=value_range, progress=progress, on_note=on_note,
    )  # fmt: skip
    cache = extraction.cache
    diagnosis = examine(cache, seed=seed, progress=progress)
    head = "linear" if cache.samples.multilabel else "auto"
    budget = None if head == "linear" else budget_s
    fit = fit_head(cache, folder / HEAD, head=head, budget_s=budget, seed=seed, progress=progress)
    settings = {"head": head, "seed": seed}
    write_head_page(folder / PAGE, fit, folder / CACHE, settings, data)
    own = not isinstance(backbone, str)
    same = {
        "weights": None if own or weights == "pretrained" else weights,
        "image_size": image_size,
        "value_range": value_range and format_range(value_range),
        "label_column": label_column,
        "skip_missing": skip_missing,
    }
    return Trial(folder, os.fspath(data), extraction, diagnosis, fit, watch.seconds()["wall"], own, same)
