"""`RunSummary`: counts the predictions of `featcache predict`, and reports failures, remarks and the exit status."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from featcache_cli import options, results
from featcache_cli.stopping import LateStop, StoppedError
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.models.prediction import OptionalColumn, Prediction
    from featcache.models.sort_files import FileSorter

_MAX_LISTED = 20  # failed images listed at the end


class Work(NamedTuple):
    """The predictions to come, and what is said about them.

    total : 0 if unknown. missing : names that are not samples, with the reason. ignored : numbers of skipped files.
    hint : what to do about many remarks. source : further fields in JSON.
    """

    stream: Generator[Prediction, None, None]
    total: int
    missing: Mapping[str, str]
    ignored: Counter[str]
    modality: str
    columns: Sequence[OptionalColumn] = ()
    hint: str = ""
    sorter: FileSorter | None = None
    source: Mapping[str, Any] = MappingProxyType({})


def _empty_stdin_error(modality: str) -> Exception:
    from featcache.errors import EmptyFolderError

    return EmptyFolderError(f"stdin is empty: it has no {modality}.")


class RunSummary:
    """Counts predictions, and collects failures and remarks."""

    def __init__(self, work: Work) -> None:
        self._work, self._modality = work, work.modality
        self.done = self.unknown = 0
        self.remarks: list[tuple[str, str]] = []
        self._ended = False
        self.unreadable: list[Prediction] = []
        self.unsorted: list[Prediction] = []
        self.stopped: StoppedError | LateStop | None = None

    def count(
        self, predictions: Iterable[Prediction], progress: Callable[[str, int, int], None]
    ) -> Iterator[Prediction]:
        """Yield the predictions until Ctrl-C; print the report also after an error."""
        try:
            for self.done, prediction in enumerate(predictions, 1):
                if prediction.remark:
                    self.remarks.append((prediction.path, prediction.remark))
                self.unknown += bool(prediction.is_unknown)
                if prediction.error:
                    (self.unreadable if prediction.label is None else self.unsorted).append(prediction)
                yield prediction
                progress("predict", self.done, self._work.total)
            self._ended = True
        except (StoppedError, LateStop) as error:
            self.stopped, self._ended = error, True
        finally:
            if not self._ended and self.done:
                self._report()

    def _report(self) -> None:
        from featcache.data.input_notes import input_notes, remark_notes

        odd = remark_notes(self.remarks, self._work.hint, self._modality) if self.done > 1 else []
        for line in [*input_notes(self._work.ignored, [], [], self._modality), *odd]:
            options.note(line)
        if "unknown" in self._work.columns:
            options.note(
                f"{self.unknown} of {self.done} {self._modality}s are like none of the classes: they have no label"
            )
        self._list_failures(self.unreadable, f"{self._modality}s could not be read")
        self._list_failures(self.unsorted, "files could not be moved or linked")
        if self._work.sorter:
            click.echo(safe(str(self._work.sorter)), err=True)

    @property
    def status(self) -> int:
        """The exit status."""
        if self.stopped:
            return self.stopped.exit_code
        return int(bool(self.unsorted) or len(self.unreadable) == self.done)

    def summary(self, model: str, error: Exception | None) -> dict[str, Any]:
        """The fields beside the predictions in JSON."""
        from featcache.data.input_notes import split_remark

        ended = error or self.stopped or (None if self.done else _empty_stdin_error(self._modality))
        return {
            "model": model,
            **self._work.source,
            f"{self._modality}s": self.done,
            "unreadable": len(self.unreadable),
            **({"unknown": self.unknown} if "unknown" in self._work.columns else {}),
            "remarks": dict(Counter(part for _, remark in self.remarks for part in split_remark(remark))),
            "ignored": dict(self._work.ignored),
            **results.outcome(1 if error else self.status, ended),
        }

    def end(self) -> None:
        """Print the report, and exit with the status."""
        if not (self.done or self.stopped):
            raise _empty_stdin_error(self._modality)
        self._report()
        if self.stopped:
            of = f" of {self._work.total}" if self._work.total else ""
            text = f"predict: {self.done}{of} done; the predictions written so far are kept."
            raise StoppedError(self.stopped.exit_code - 128, text)
        if self.status:
            sys.exit(self.status)

    def _list_failures(self, bad: list[Prediction], what: str) -> None:
        from featcache._utils.formatting import printable

        if bad:
            lines = [f"{len(bad)} of {self.done} {what}:"]
            lines += [f"  {printable(prediction.path)}: {prediction.error}" for prediction in bad[:_MAX_LISTED]]
            lines += [f"  and {len(bad) - _MAX_LISTED} more"] if len(bad) > _MAX_LISTED else []
            click.echo(safe("\n".join(lines)), err=True)
