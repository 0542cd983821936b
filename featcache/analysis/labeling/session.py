"""`LabelSession`: labels that a person gives to the samples of a cache one by one, saved at once in a table."""

from __future__ import annotations

import shlex
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache._utils import remote
from featcache._utils.files import identity
from featcache._utils.formatting import plural
from featcache.analysis.labeling.assessment import Assessment, Doubt, assess
from featcache.analysis.suggestions.label_table import LabelTable
from featcache.analysis.suggestions.suggest import suggest
from featcache.cache.cached_data import CachedData
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.relabel import relabel
from featcache.core.samples import SEPARATOR, UNLABELED, format_labels
from featcache.errors import CacheMismatchError, DataLayoutError, FeatcacheError, RunError, SpecError

BATCH = 20
"""Samples that are chosen at once. The next ones are chosen with the labels of these."""

_TRIED, _MAX_NAME = 5, 200  # samples that must not all be unreadable at the start; letters of a class name
_LABELED, _SKIPPED, _CONFIRMED, _REMOVED = "labeled", "skipped", "confirmed", "label removed"
_MARKS = (_LABELED, _SKIPPED, _CONFIRMED, _REMOVED)  # in the column `reason`
_BACK = "skipped before"  # no mark


class Queued(NamedTuple):
    """A sample to label. row : of the cache. reason : see `Suggestion`."""

    row: int
    reason: str


class ChangedMeanwhileError(FeatcacheError, ValueError):
    """Another tab has labeled the sample in the meantime."""


def table_path(cache: FeatureCache) -> Path:
    """Where the labels of a cache are saved: NAME.labels.csv beside NAME.h5."""
    return cache.path.with_suffix(".labels.csv")


class LabelSession:
    """The labels of a cache, while a person gives and corrects them.

    Each change is saved before its method returns. The table has a row for each sample of the cache, so that `update`
    reads it; its column `reason` marks what was labeled, skipped or confirmed here. A session that is opened again
    continues from the table. Methods can be called from several threads.

    Parameters
    ----------
    cache : FeatureCache
        Its file is not changed.
    data : path
        What the cache was made from, or the table of a former session.
    classes : iterable of str
        Classes that have no sample yet.
    seed : int, default 0
        Of `suggest`, and of the folds of cross-validation.

    Attributes
    ----------
    path : Path
        The table.
    classes : list of str
        All classes: those of the cache, then others in the order in which they came.
    queue : list of Queued
        The samples to label next: as `suggest` orders them, without those that were labeled or skipped since.
    assessments : list of Assessment
        The last one for each number of labels.
    is_choosing, is_assessing : bool
        Whether `work` has something to do.
    error : str
        Why the last choice or assessment failed; "" if it did not.

    Raises
    ------
    CacheMismatchError
        Samples have several labels, the cache was made from arrays, or the data is not that of the cache.
    DataLayoutError
        The data is not on this machine, or the table lists other samples.
    SpecError
        A class name cannot be used, or the cache is remote.
    """

    def __init__(
        self, cache: FeatureCache, data: str | Path, classes: Iterable[str] = (), seed: int = 0
    ) -> None:  # fmt: skip
        relabel(cache, {})  # refuses several labels
        self.cache, self.data, self._seed = cache, CachedData(cache, data), seed
        self.path = table_path(cache)
        self._table = LabelTable(self.path, cache, self.data.source)
        self._cached_labels = format_labels(cache.samples.labels, cache.samples.classes)
        self.labels = [*self._cached_labels]
        _check_data(self, self.data)
        self.classes = [*cache.samples.classes]
        self.queue: list[Queued] = []
        self.assessments: list[Assessment] = []
        self._marks: dict[int, str] = {}
        self._changed: dict[int, str] = {}
        for name in classes:
            self._add_class(check_name(name))
        self._read_table()
        self._identity = identity(self.path)
        self._condition, self._is_closed, self.error = threading.Condition(), False, ""
        self.is_choosing = self.is_assessing = True
        self.choose()
        _check_reachable(self)

    @property
    def labeled(self) -> int:
        """How many samples have a label."""
        return sum(bool(name) for name in self.labels)

    @property
    def history(self) -> list[int]:
        """Rows that were labeled, skipped or confirmed, the last one at the end."""
        return [row for row, mark in self._marks.items() if mark != _REMOVED]

    @property
    def changes(self) -> int:
        """How many labels are not yet in the cache."""
        return len(self._changed)

    @property
    def skipped(self) -> int:
        """How many samples were skipped and have no label."""
        return len(self._skipped_rows())

    @property
    def doubts(self) -> list[Doubt]:
        """The doubts of the last assessment about labels that are still the same, without confirmed ones."""
        last = self.assessments[-1].doubts if self.assessments else ()
        return [
            one for one in last if self.labels[one.row] == one.label and self._marks.get(one.row) != _CONFIRMED
        ]  # fmt: skip

    def label(self, row: int, name: str, before: str) -> None:
        """Label a sample, and save the label. The label that a doubtful sample has already is confirmed.

        Parameters
        ----------
        row : int
            Of the cache.
        name : str
            The class, which may be new; "" removes the label.
        before : str
            The label that the person saw, "" for none.

        Raises
        ------
        SpecError
            No such row, or the name cannot be used.
        ChangedMeanwhileError
            The sample has another label by now.
        RunError
            Another program has changed the table.
        OutputError
            The table cannot be written; the label did not change.
        """
        name = check_name(name) if name and name not in self.classes else name
        with self._condition:
            mark = _REMOVED if not name else _CONFIRMED if name == before else _LABELED
            self._change(row, name, before, mark)

    def skip(self, row: int, before: str) -> None:
        """Pass over a sample without a label, or confirm the label of another. Parameters and errors as of `label`."""
        with self._condition:
            self._change(row, before, before, _CONFIRMED if before else _SKIPPED)

    def bring_back(self) -> None:
        """Suggest the samples that were skipped again. Errors as of `label`."""
        with self._condition:
            rows = self._skipped_rows()
            self._save(self.labels, {row: mark for row, mark in self._marks.items() if mark != _SKIPPED})
            self.queue += [Queued(row, _BACK) for row in rows]

    def _skipped_rows(self) -> list[int]:
        return [row for row, mark in self._marks.items() if mark == _SKIPPED]

    def _change(self, row: int, name: str, before: str, mark: str) -> None:
        if not 0 <= row < len(self.labels):
            raise SpecError(f"there is no row {row}")
        if not self.cache.done[row]:
            raise SpecError(f"{self.cache.samples.ids[row]} has no features, as it could not be read")
        if self.labels[row] != before:
            now = self.labels[row] or "no label"
            raise ChangedMeanwhileError(f"It was labeled in another tab in the meantime: {now}.")
        labels, marks = [*self.labels], {other: old for other, old in self._marks.items() if other != row}
        labels[row], marks[row] = name, mark
        self._save(labels, marks)
        if name != before:
            self._changed = {**self._changed, row: name}
            if name == self._cached_labels[row]:
                del self._changed[row]
            self.is_assessing = True
            self._add_class(name)
        self.queue = [one for one in self.queue if one.row != row]
        if mark == _REMOVED:
            self.queue.insert(0, Queued(row, _REMOVED))
        self.is_choosing = not self.queue
        self._condition.notify_all()

    def _save(self, labels: list[str], marks: dict[int, str]) -> None:
        """Write the table, then take over what it says."""
        if identity(self.path) != self._identity:
            raise RunError(
                f"{self.path} was changed by another program, such as a second server or a spreadsheet, so this label "
                "was not saved. Start the server again: it continues from the table."
            )
        reasons = {**marks, **{one.row: one.reason for one in self.queue if one.row not in marks}}
        self._table.write(labels, reasons)
        self._identity = identity(self.path)
        self.labels, self._marks = labels, marks

    def _add_class(self, name: str) -> None:
        if name and name not in self.classes:
            self.classes.append(name)

    def _read_table(self) -> None:
        records = self._table.read()
        _check_age(self, records)
        for row, name, reason in records:
            if name and name not in self.classes:
                name = check_name(name)
            if (name or reason == _REMOVED) and name != self.labels[row]:
                self.labels[row] = self._changed[row] = name
                self._add_class(name)
                reason = reason if reason in _MARKS else _LABELED
            if reason in _MARKS:
                self._marks[row] = reason

    def choose(self) -> None:
        """Fill the queue with the next `BATCH` samples that `suggest` names, with the labels so far."""
        with self._condition:
            cache, skipped = relabel(self.cache, self._changed), {*self._skipped_rows()}
        chosen = []
        if len(cache.readable_rows(UNLABELED)):
            found = suggest(cache, BATCH + len(skipped), seed=self._seed)
            chosen = [Queued(self.data.rows[one.path], one.reason) for one in found.samples]
        with self._condition:
            queued = {one.row for one in self.queue}
            self.queue += [
                one for one in chosen
                if one.row not in skipped | queued and not self.labels[one.row] and self._marks.get(one.row) != _SKIPPED
            ][:BATCH]  # fmt: skip
            self.is_choosing = False

    def assess(self) -> None:
        """Estimate the accuracy with the labels so far, and find doubtful ones."""
        with self._condition:
            changed = {**self._changed}
        assessment = assess(relabel(self.cache, changed, join_val=True), self._seed)
        with self._condition:
            before = [one for one in self.assessments if one.labels != assessment.labels]
            self.assessments = [*before, assessment]  # a new list: other threads read the old one
            self.is_assessing = self._changed != changed

    def work(self) -> None:
        """Choose and assess whenever labels have changed, until `close`. It is the target of a thread."""
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._is_closed or self.is_choosing or self.is_assessing)
                if self._is_closed:
                    return
                is_choice = self.is_choosing
            try:
                self.choose() if is_choice else self.assess()
                self.error = ""
            except Exception as error:  # shown, whatever it is: without this thread the page would wait for ever
                with self._condition:
                    self.error = str(error) or repr(error)
                    self.is_choosing, self.is_assessing = not is_choice and self.is_choosing, False

    def close(self) -> None:
        """End `work` after its current step."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()


def check_name(name: str) -> str:
    """The name of a class as it is saved. Raises SpecError if it cannot be one."""
    name = unicodedata.normalize("NFC", name).strip()
    if not name:
        raise SpecError("a class needs a name")
    if len(name) > _MAX_NAME:
        raise SpecError(f"the name of a class has at most {_MAX_NAME} letters; this one has {len(name)}")
    if SEPARATOR in name:
        raise SpecError(f"{name!r}: a class name must not contain {SEPARATOR}, which separates several labels")
    if not name.isprintable():
        raise SpecError(f"{name!a}: a class name must not contain line breaks or control characters")
    if name == "-1":
        raise SpecError("-1 means that the label is not known: give the class another name")
    return name


def _check_data(session: LabelSession, data: CachedData) -> None:
    """Raise CacheMismatchError if samples are not in the data, or have a label there that the cache does not have."""
    cache, source = session.cache, data.source
    labels = {one.id: one.classes if one.split != UNLABELED else () for one in source.entries(Counter()).entries}
    nouns = f"{cache.spec.modality}s of {cache.path}"
    missing = [name for name in cache.samples.ids if name not in labels]
    if missing:
        raise CacheMismatchError(
            f"{len(missing)} of {len(cache.samples)} {nouns} are not in {source.name} (for example {missing[0]}). Give "
            "the data that the cache was made from with --data (after an update from a table, that table), or run "
            "`featcache update` first."
        )
    cached = zip(cache.samples.ids, session.labels, strict=True)
    newer = [name for name, label in cached if labels[name] and not label]
    if newer and Path(source.name).resolve() != session.path.resolve():
        raise CacheMismatchError(
            f"{len(newer)} {nouns} have a label in {source.name} and none in the cache (for example {newer[0]}). Run "
            f"`featcache update {shlex.quote(str(cache.path))} {shlex.quote(source.name)}` first."
        )


def _check_age(session: LabelSession, records: Sequence[tuple[int, str, str]]) -> None:
    """Raise CacheMismatchError if the cache was updated after the table, and has other labels where both have one."""
    samples = session.cache.samples
    differing = [
        (samples.ids[row], session.labels[row], name or "no label")
        for row, name, reason in records
        if session.labels[row] and name != session.labels[row] and (name or reason == _REMOVED)
    ]
    if not differing or session.cache.path.stat().st_mtime <= session.path.stat().st_mtime:
        return
    example, cached, listed = differing[0]
    update = f"featcache update {shlex.quote(str(session.cache.path))} {shlex.quote(str(session.path))}"
    raise CacheMismatchError(
        f"{session.path} is older than {session.cache.path}, and {plural(len(differing), 'label')} of it "
        f"{'is' if len(differing) == 1 else 'are'} not that of the cache: {example} is {cached} in the cache, and "
        f"{listed} in the table. To keep the labels of the cache, rename or remove the table. To take those of the "
        f"table, run `{update}`."
    )


def _check_reachable(session: LabelSession) -> None:
    """Raise DataLayoutError if none of the first samples can be read."""
    reasons = []
    for one in session.queue[:_TRIED]:
        try:
            session.data.read(session.cache.samples.ids[one.row])
            return
        except OSError as error:
            reasons.append(error.strerror or str(error))
    if reasons:
        raise DataLayoutError(
            f"none of the first {len(reasons)} {session.cache.spec.modality}s to label can be read from "
            f"{session.data.source.name}: {reasons[0]}. Give the data that the cache was made from with --data, or run "
            "`featcache update` with it first."
        )


def refuse_remote(cache: str) -> None:
    """Raise SpecError for a cache at a URL: the labels are saved beside it."""
    if remote.is_url(cache):
        raise SpecError(f"{cache} is remote, and labels are saved beside the cache: `featcache pull` it first")
