"""`Trial`: what `try_out` returns, in words and as the next commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from featcache._utils.formatting import plural, printable
from featcache._utils.remote import display_name
from featcache._utils.results import NotebookResult, Result
from featcache.analysis.doctor.findings import DoctorReport, Issue, IssueExample
from featcache.analysis.doctor.label_errors import LEAST_LIKELY
from featcache.backbones.factory import is_factory
from featcache.data.input_notes import input_notes
from featcache.extraction.pipelines.registry import PIPELINES
from featcache.extraction.results import Extraction
from featcache.heads.fit_head import HeadFit
from featcache.reports.commands import format_command
from featcache.reports.samples.registry import sample_report

CACHE, HEAD, PAGE = "cache.h5", "head", "report.html"
_COMMAND_WIDTH = 60  # letters; the explanation of a longer command does not move to the right
_CERTAIN_MARGIN = 0.8  # of a label that is called probably wrong
_LISTED = 3  # of each list in text
_FEW_SAMPLES = 30  # of val; with fewer, the accuracy is imprecise


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
        """Samples whose label is probably wrong, the most suspicious first."""
        examples = self._label_examples(self.diagnosis.findings)
        return tuple(example for example in examples if (example.score or 0.0) >= _CERTAIN_MARGIN)

    @property
    def least_likely(self) -> tuple[IssueExample, ...]:
        """Samples to check next, the least likely labels first; their labels may be right."""
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
        modality = extraction.cache.spec.modality
        lines += input_notes(extraction.ignored, extraction.conflicts, extraction.skipped, modality)
        end = f"It took {self.seconds:.0f} s. Figures and tables: {self.folder / PAGE}"
        return "\n".join([*lines, end, "Next:", *self.next_commands()])

    def summary(self) -> list[str]:
        """The data, the accuracy of the head, and the warnings of the doctor about anything but labels."""
        accuracy, cache = self.fit.accuracy, self.extraction.cache
        noun = cache.spec.modality
        samples = cache.samples
        trained = int((cache.done[samples.rows("train")] > 0).sum())
        right = round(accuracy.accuracy * accuracy.n)
        labels = "all labels" if samples.multilabel else "the label"
        lines = [
            f"{plural(len(samples), noun)} of {plural(len(samples.classes), 'class', 'classes')}; the head "
            f"({self.fit.name}) was trained on {trained}.",
            f"It predicts {labels} of {right} of {plural(accuracy.n, f'other {noun}')} correctly "
            f"({accuracy.accuracy:.0%}; 95 % interval {accuracy.accuracy_low:.0%} to {accuracy.accuracy_high:.0%}).",
        ]
        if accuracy.n < _FEW_SAMPLES:
            lines.append(f"{plural(accuracy.n, noun)} are few for a measurement: the interval is wide.")
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
        report = sample_report(self.extraction.cache.spec.modality)
        commands = {
            f"featcache predict {folder}/{HEAD} {report.argument}{backbone}": f"predict the class of a {report.noun}",
            f"featcache serve {folder}/{HEAD}{backbone}": f"serve a web page that classifies {report.noun}s",
            f"featcache doctor {folder}/{CACHE} {data}{backbone}": "list all problems of the data",
            self.own_command(): f"run again after labels or {report.noun}s have changed",
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
        spec = self.extraction.cache.spec
        if self.own_network:
            return spec.backbone if is_factory(spec.backbone) else "MODULE:FACTORY"
        return None if spec.backbone == PIPELINES.get(spec.modality).default_backbone else spec.backbone

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
    text = f' ("{printable(example.text)}")' if example.text else ""
    return f"{printable(example.name)}{text} is labelled {example.label}, probably {example.suggested}"


def _list(examples: Sequence[IssueExample]) -> list[str]:
    more = [f"  and {len(examples) - _LISTED} more"] if len(examples) > _LISTED else []
    return [*(f"  {_describe(example)}" for example in examples[:_LISTED]), *more]


def _as_json(example: IssueExample) -> dict[str, Any]:
    values = {"image": example.image, "label": example.label, "suggested": example.suggested, "score": example.score}
    return {**values, **({"place": example.place, "text": example.text} if example.text else {})}
