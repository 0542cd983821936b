"""featcache predict"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from featcache._utils.formatting import join_words
from featcache.models.defaults import TOP_CLASSES
from featcache_cli import options, outputs, results
from featcache_cli.predict_summary import RunSummary, Work
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.models.classifier import Classifier
    from featcache.models.feature_classifier import FeatureClassifier
    from featcache.models.inputs.base import SampleInputs
    from featcache.models.prediction import Format, OptionalColumn, Prediction
    from featcache.models.sort_files import FileSorter, How

_NEEDS_FILES = "--move-to and --link-to need local files, not URLs, tar files or data sets"


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
    "--data",
    type=options.PATH,
    help="What the cache was made from: for the paths of its files, and the words of texts.",
)
@click.option(
    "--coverage",
    type=options.Finite(0, 1, min_open=True, max_open=True),
    help="Name for each sample a set of labels that holds the true label with this probability, such as 0.95.",
)
@click.option(
    "--unknown",
    is_flag=True,
    help="Refuse samples that are like none of the classes. One in 20 samples of the known classes is refused as well.",
)
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.device_option
def command(
    model: str, samples: tuple[str, ...], texts: tuple[str, ...], text_column: str | None, null: bool, kind: Format,
    as_json: bool, out: str | None, move_to: str | None, link_to: str | None, dry_run: bool, split: str | None,
    data: str | None, weights: str | None, backbone: Any, device: str, **naming: Any,
) -> None:  # fmt: skip
    """Classify SAMPLES with MODEL, a saved head or a fine-tuned run.

    SAMPLES of a model of images are files, folders, globs, tables (CSV, Parquet with a column path), tar files, saved
    data sets, and URLs of any of these; - reads names from stdin, one a line.
    SAMPLES of a model of texts are .txt files, each of which is one text, folders, globs, tables (CSV, TSV, JSON lines,
    Parquet with a column text) and saved data sets; - reads texts from stdin, one a line, or as JSON lines with
    --text-column. Predictions are written one by one. A name that is not a sample is listed with the unreadable ones.
    SAMPLES can be one cache instead: its samples are predicted from their features, without the network. --data gives
    them the paths of their files. A head on several networks takes a cache of each.
    Exit status: 1 = no sample could be read, or a file could not be moved or linked.
    """
    from featcache.models.prediction import format_predictions

    request = _Request(samples, texts, text_column, null, move_to, link_to, dry_run)
    _check_usage(request, split, data)
    if _is_cache(request):
        work = _open_cache(model, request, data, split, naming)
    else:
        work = _open_samples(model, request, naming, {"weights": weights, "backbone": backbone, "device": device})
    run = RunSummary(work)
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


def _check_usage(request: _Request, split: str | None, data: str | None) -> None:
    if (request.move_to and request.link_to) or (request.dry_run and not request.sorts):
        raise click.UsageError("--move-to and --link-to exclude each other, and --dry-run needs one of them")
    if not (request.samples or request.texts):
        raise click.UsageError("Missing argument 'SAMPLES...'.")
    if not _is_cache(request):
        if split or data:
            raise click.UsageError("--split and --data are for a cache: give one, and nothing else")
        return
    if request.sorts and not data:
        raise click.UsageError("--move-to and --link-to need --data: the files that the cache was made from")
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
    """Whether caches are to be predicted. Among other samples a cache is a name that is not a sample."""
    from featcache.cache.paths import names_cache

    return bool(request.samples) and not request.texts and all(map(names_cache, request.samples))


def _open_cache(model: str, request: _Request, data: str | None, split: str | None, naming: Mapping[str, Any]) -> Work:
    """The predictions of the samples of a cache, or of several of the same samples.

    data : what it was made from. naming : top, tta, coverage and unknown, see `Classifier.stream`.
    """
    from featcache.cache.cached_data import CachedData
    from featcache.cache.joined_cache import JoinedCache
    from featcache.cache.rows import ALL, select_splits
    from featcache.models.feature_classifier import FeatureClassifier
    from featcache.models.inputs.registry import inputs_of

    split, classifier = split or ALL, FeatureClassifier.load(model)
    cache = classifier.open_caches(request.samples, naming["tta"])
    located = CachedData(cache.first if isinstance(cache, JoinedCache) else cache, data) if data else None
    opened = list(cache.caches.values()) if isinstance(cache, JoinedCache) else cache
    stream = classifier.stream(opened, located, split=split, **naming)
    for note in cache.notes if isinstance(cache, JoinedCache) else ():
        options.note(note)
    names = [cache.samples.ids[row] for part in select_splits(cache, split) for row in cache.samples.rows(part)]
    if split in (ALL, "train") and (in_train := len(cache.samples.rows("train"))):
        options.note(
            f"{in_train} of {len(names)} samples are in train: a head that was fitted on them predicts them better "
            "than others (--split val, test or unlabeled)"
        )
    if located and request.sorts and not all(map(located.source.local_path, names)):
        raise click.UsageError(_NEEDS_FILES)
    return Work(
        stream,
        len(names),
        {},
        Counter(),
        cache.spec.modality,
        _columns(inputs_of(cache.spec) if data else None, request, naming),
        sorter=_make_sorter(classifier, request),
        source={"cache": request.samples[0] if len(request.samples) == 1 else [*request.samples], "split": split},
    )


def _open_samples(model: str, request: _Request, naming: Mapping[str, Any], settings: Mapping[str, Any]) -> Work:
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
    return Work(
        classifier.stream(listed, **naming),
        total and total + len(missing),
        missing,
        ignored,
        inputs.modality.name,
        _columns(inputs, request, naming),
        inputs.remark_hint(),
        _make_sorter(classifier, request),
    )


def _columns(inputs: SampleInputs | None, request: _Request, naming: Mapping[str, Any]) -> list[OptionalColumn]:
    """Further columns of CSV. inputs : None if the samples are not read."""
    optional: dict[OptionalColumn, bool] = {
        "moved_to": request.sorts,
        "label_set": naming["coverage"] is not None,
        "unknown": naming["unknown"],
    }
    return [*(inputs.columns if inputs else ()), *(name for name, is_there in optional.items() if is_there)]


def _make_sorter(classifier: Classifier | FeatureClassifier, request: _Request) -> FileSorter | None:
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
        raise click.UsageError(_NEEDS_FILES)
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
