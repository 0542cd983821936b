"""featcache predict"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, starmap
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from featcache._utils.formatting import join_words
from featcache.models.defaults import TOP_CLASSES
from featcache_cli import options, outputs, results
from featcache_cli.stopping import LateStop, StoppedError
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.models.classifier import Classifier
    from featcache.models.inputs.base import SampleInputs
    from featcache.models.prediction import Format, OptionalColumn, Prediction
    from featcache.models.sort_files import FileSorter, How

_MAX_LISTED = 20  # failed images listed at the end


@options.command()
@click.argument("model", type=options.PATH)
@click.argument("samples", nargs=-1, type=options.PATH)
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="Predict this text. It can be repeated.")
@options.text_column_option
@click.option(
    "-0", "--null", is_flag=True, help="Names or texts on stdin end with NUL; `find -print0` writes names like that."
)
@click.option(
    "--top", type=click.IntRange(1), default=TOP_CLASSES, show_default=True, help="The number of classes to list."
)
@click.option(
    "--tta",
    type=click.IntRange(0),
    help="How many augmented views are averaged with the clean one. [default: the number of `fit-head --tta`]",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["text", "csv", "json", "jsonl"]),
    default="text",
    show_default=True,
    help="How predictions are written; json is one object, jsonl an object a line.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout; the same as --format json.")
@click.option("-o", "--out", type=options.PATH, callback=outputs.new_file, help="Write to this file instead of stdout.")
@outputs.overwrite_option
@click.option(
    "--move-to", type=options.PATH, metavar="DIR", help="Move each file to DIR/CLASS; nothing is overwritten."
)
@click.option(
    "--link-to", type=options.PATH, metavar="DIR", help="Make a symbolic link to each file in DIR/CLASS instead."
)
@click.option("--dry-run", is_flag=True, help="Only print where --move-to or --link-to would put the files.")
@options.split_option(None, "Which samples of a cache to predict. [default: all]")
@click.option(
    "--coverage",
    type=options.Finite(0, 1, min_open=True, max_open=True),
    help="Name for each sample a set of labels that holds the true one so often, such as 0.95.",
)
@click.option(
    "--unknown",
    is_flag=True,
    help="Refuse samples that are like none of the classes; one in 20 of the known classes is refused as well.",
)
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.device_option
def command(
    model: str, samples: tuple[str, ...], texts: tuple[str, ...], text_column: str | None, null: bool, kind: Format,
    as_json: bool, out: str | None, move_to: str | None, link_to: str | None, dry_run: bool, split: str | None,
    weights: str | None, backbone: Any, device: str, **naming: Any,
) -> None:  # fmt: skip
    """Classify SAMPLES with MODEL, a saved head or a fine-tuned run.

    SAMPLES of a model of images are files, folders, globs, tables (CSV, Parquet with a column path), tar files, saved
    data sets, and URLs of any of these; - reads names from stdin, one a line.
    SAMPLES of a model of texts are .txt files, each of which is one text, folders, globs, tables (CSV, TSV, JSON lines,
    Parquet with a column text) and saved data sets; - reads texts from stdin, one a line, or as JSON lines with
    --text-column. Predictions are written one by one. A name that is not a sample is listed with the unreadable ones.
    SAMPLES can be one cache instead: its samples are predicted from their features, without the network.
    Exit status: 1 = no sample could be read, or a file could not be moved or linked.
    """
    from featcache.models.prediction import format_predictions

    request = _Request(samples, texts, text_column, null, move_to, link_to, dry_run)
    _check_usage(request, split)
    if _is_cache(request):
        work = _open_cache(model, samples[0], split, naming)
    else:
        work = _open_samples(model, request, naming, {"weights": weights, "backbone": backbone, "device": device})
    run = _RunSummary(work)
    with options.progress_bar() as progress, _output(out) as write, closing(work.stream):
        sorted_ones = map(work.sorter.sort, work.stream) if work.sorter else work.stream
        predictions = chain(sorted_ones, starmap(_missing_sample, work.missing.items()))
        counted, form = run.count(predictions, progress), "json" if as_json else kind
        for text in format_predictions(counted, form, work.columns, partial(run.summary, model)):
            write(text)
    run.end()


class _Request(NamedTuple):
    """What is to be predicted, and where the files go, as the user wrote it.

    null : whether parts of stdin end with NUL.
    """

    samples: Sequence[str]
    texts: Sequence[str]
    text_column: str | None
    null: bool
    move_to: str | None
    link_to: str | None
    dry_run: bool

    @property
    def sorts(self) -> bool:
        """Whether files are moved or linked."""
        return bool(self.move_to or self.link_to)


class _Work(NamedTuple):
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


def _check_usage(request: _Request, split: str | None) -> None:
    if (request.move_to and request.link_to) or (request.dry_run and not request.sorts):
        raise click.UsageError("--move-to and --link-to exclude each other, and --dry-run needs one of them")
    if not (request.samples or request.texts):
        raise click.UsageError("Missing argument 'SAMPLES...'.")
    if not _is_cache(request):
        if split:
            raise click.UsageError("--split is for a cache: give one, and nothing else")
        return
    if request.sorts:
        raise click.UsageError(
            "--move-to and --link-to need files, and a cache has features alone: give the files themselves"
        )
    context = click.get_current_context()
    given = [
        param.opts[-1]
        for param in context.command.params
        if param.name in ("text_column", "null", "weights", "backbone", "device")
        and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        are = "is" if len(given) == 1 else "are"
        raise click.UsageError(
            f"{join_words(given)} {are} not for a cache: neither samples are read nor a network runs"
        )


def _is_cache(request: _Request) -> bool:
    """Whether one cache is to be predicted. Among other samples it is a name that is not a sample."""
    from featcache.cache.paths import names_cache

    return len(request.samples) == 1 and not request.texts and names_cache(request.samples[0])


def _open_cache(model: str, name: str, split: str | None, naming: Mapping[str, Any]) -> _Work:
    """The predictions of the samples of a cache. naming : top, tta, coverage and unknown, see `Classifier.stream`."""
    from featcache.cache.feature_cache import FeatureCache
    from featcache.cache.rows import ALL, select_splits
    from featcache.models.feature_classifier import FeatureClassifier

    cache, split = FeatureCache.open(name), split or ALL
    stream = FeatureClassifier.load(model).stream(cache, split=split, **naming)
    total = sum(len(cache.samples.rows(part)) for part in select_splits(cache, split))
    source = {"cache": name, "split": split}
    return _Work(stream, total, {}, Counter(), cache.spec.modality, _set_columns(naming), source=source)


def _set_columns(naming: Mapping[str, Any]) -> list[OptionalColumn]:
    """The columns of sets of labels, and of refused samples."""
    columns: list[OptionalColumn] = [] if naming["coverage"] is None else ["label_set"]
    return [*columns, "unknown"] if naming["unknown"] else columns


def _open_samples(model: str, request: _Request, naming: Mapping[str, Any], settings: Mapping[str, Any]) -> _Work:
    """The predictions of images or texts.

    naming : top, tta, coverage and unknown, see `Classifier.stream`. settings : where the network is and runs.
    """
    import featcache
    from featcache.core.model_card import ModelCard
    from featcache.models.inputs.registry import inputs_of

    ignored: Counter[str] = Counter()
    inputs = inputs_of(ModelCard.read(Path(model)).spec)
    listed, total, missing = _list_inputs(inputs, request, ignored)
    options.step("load the model")
    classifier = featcache.Classifier.load(model, views=total * (1 + (naming["tta"] or 0)), **settings)
    options.note(classifier.backbone.note)
    sorter = _make_sorter(classifier, request)
    return _Work(
        classifier.stream(listed, **naming),
        total and total + len(missing),
        missing,
        ignored,
        inputs.modality.name,
        [*inputs.columns, *(("moved_to",) if sorter else ()), *_set_columns(naming)],
        inputs.remark_hint(),
        sorter,
    )


def _make_sorter(classifier: Classifier, request: _Request) -> FileSorter | None:
    """The sorter that moves or links the files; None without --move-to and --link-to."""
    from featcache.models.sort_files import FileSorter

    several = classifier.card.multilabel
    folder = request.move_to or request.link_to
    way: How = "move" if request.move_to else "link"
    return FileSorter(folder, way, classifier.classes, multilabel=several, dry_run=request.dry_run) if folder else None


def _list_inputs(
    inputs: SampleInputs, request: _Request, ignored: Counter[str]
) -> tuple[Iterable[Any], int, dict[str, str]]:
    """The samples, their number (0 if some come from stdin), and the names that are not samples, with the reason.

    ignored : counts skipped files.
    """
    from featcache.models.inputs.base import SampleFile
    from featcache.models.inputs.names import list_inputs
    from featcache.models.sort_files import distinct

    missing: dict[str, str] = {}
    named = [name for name in request.samples if name != "-"]
    column = request.text_column
    listed: Iterable[Any] = inputs.of_strings(request.texts)
    listed = [*listed, *(list_inputs(named, inputs, missing, ignored, column) if named else [])]
    if request.sorts and any(isinstance(sample, SampleFile) for sample in listed):
        raise click.UsageError("--move-to and --link-to need local files, not URLs, tar files or data sets")
    if "-" in request.samples:
        if request.sorts and not inputs.stream_has_names:
            raise click.UsageError("--move-to and --link-to need local files, and stdin holds texts")
        listed = chain(listed, inputs.read_stream(sys.stdin.buffer, b"\0" if request.null else b"\n", column))
        return (distinct(listed) if request.move_to else listed), 0, missing
    listed = list(distinct(listed) if request.move_to else listed)
    return listed, len(listed), missing


def _missing_sample(name: str, reason: str) -> Prediction:
    """The prediction for a name that is not a sample."""
    from featcache.models.prediction import Prediction

    return Prediction(name, None, (), reason)


@contextmanager
def _output(out: str | None) -> Iterator[Callable[[str], Any]]:
    """Yield a function that writes to a file, or to stdout without breaking the progress bar."""
    from tqdm import tqdm

    from featcache._utils.files import text_output

    if out:
        with text_output(Path(out)) as file:
            yield file.write
        return

    results.printed_json()  # JSON goes through this function as well

    shown = safe if sys.stdout.isatty() else str  # output for programs is not escaped

    def write(text: str) -> None:
        with tqdm.external_write_mode():
            sys.stdout.write(shown(text))
            sys.stdout.flush()

    yield write


def _empty_stdin_error(modality: str) -> Exception:
    from featcache.errors import EmptyFolderError

    return EmptyFolderError(f"stdin is empty: it has no {modality}.")


class _RunSummary:
    """Counts predictions, and collects failures and remarks."""

    def __init__(self, work: _Work) -> None:
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
                self.unknown += prediction.is_unknown
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
            options.note(f"{self.unknown} of {self.done} {self._modality}s are like none of the classes")
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
