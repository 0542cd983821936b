"""Every way in which featcache writes, and what may go wrong: for test_durable and benchmarks/faults.py.

Left out are commands that go through these alone. `try` extracts, fits a head and writes a page. `plan --page`, `doctor
--page` and `show` write a page or a picture. `extract --list`, `update --list` and `doctor --list` write a list as
`predict -o` does. `fit-head`, `finetune` and `evaluate` write run.json. What is remembered of networks, checkpoints and
the settings of a benchmark are single files, written as a page is. `predict --move-to` is killed, and meets full disks,
in test_sorting.py; here it meets a second writer.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from commands import toy_cache, write_folder
from featcache._utils.files import FULL, text_output
from featcache.backbones.engines import openvino_files as conversion
from featcache.cache.checksums import damaged_rows
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.cache.transfer import pull, push
from featcache.core.model_card import ModelCard
from featcache.core.model_folder import locate
from featcache.data.file_listing import list_images
from featcache.data.manifest import read_manifest
from featcache.extraction import request
from featcache.extraction.extract import extract
from featcache.extraction.update import repair, update
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.linear_layer import LinearWeights
from featcache.metrics.predictions import read_predictions
from featcache.models.evaluate import evaluate
from featcache.models.export import export as exporting
from featcache.models.export.export import export
from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode, ExportFormat
from featcache.models.load import SavedModel
from featcache.models.prediction import Prediction
from featcache.models.sort_files import FileSorter
from featcache.reports import comparison_figure
from featcache.reports.benchmark_report import write_report
from featcache.reports.html import Section, write_page
from featcache.reports.style import save
from featcache.training.loop import TrainConfig
from featcache.vision.decode import decode
from featcache.vision.image_cache import ImageCache
from forks import context, fork
from limits import Ended, Work, file_size_limit, killed_at, run_apart, two_at_once
from outcomes import four_routes
from toys import toy_backbone
from trainable import trainable_backbone

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where copies lie: there fsync takes no time."""

NOBODY = 65534
"""A user who may read all of it and write none."""


class Action(NamedTuple):
    """Something that writes over what is there.

    state : what is there, as its readers see it. rival : writes something else to the same place; where there is none,
    the same again. separate : whether it is several files or images, each of which has its state: a kill may leave the
    old one of some and the new one of others. unfinished : patterns of the names of work that the same call goes on
    with. optional : whether what cannot be written is no error, as it is made again. kills : whether it is tried here
    alone, too, and not with a second writer only.
    """

    run: Work
    state: Work
    rival: Work | None = None
    separate: bool = False
    unfinished: tuple[str, ...] = ()
    optional: bool = False
    kills: bool = True

    def goes_on(self, name: str) -> bool:
        """Whether a name is that of unfinished work."""
        return any(fnmatch(name, form) for form in self.unfinished)


class StopError(Exception):
    pass


def tune(folder: Path, epochs_before_a_stop: int = 9) -> None:
    def stop(epoch: object) -> None:
        if getattr(epoch, "epoch", 0) == epochs_before_a_stop:
            raise StopError

    run = folder / "run"
    options = {"backbone": trainable_backbone(), "config": TrainConfig(epochs=2, batch_size=4), "workers": 1}
    finetune(folder / "photos", run, resume=run.exists(), on_epoch=stop, **options)


def extraction(out: str, views: int = 1, rows_before_a_stop: int = 99) -> Work:
    def run(folder: Path) -> None:
        def stop(what: str, done: int, total: int) -> None:
            if what == "extract" and done >= rows_before_a_stop:
                raise StopError

        options = {"backbone": toy_backbone(), "views": views, "batch_size": 8, "workers": 1}
        extract(folder / "photos", folder / out, progress=stop, **options)

    return run


def extracted(out: str, least: int = 0) -> Work:
    """The cache; of one that is not finished, whether as many rows are there as there were."""

    def state(folder: Path) -> object:
        if (folder / out).exists():
            return cache_state(folder, out)
        part = partial_path(folder / out)
        there = np.count_nonzero(FeatureCache.open(part, partial=True).done) if part.exists() else 0
        return "unfinished", bool(there >= least)

    return state


def updated(data: str) -> Work:
    def run(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request, "load_cache_backbone", lambda *_: toy_backbone())
            update(folder / "cache.h5", folder / data)

    return run


def mend(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "load_cache_backbone", lambda *_: toy_backbone())
        repair(folder / "damaged.h5", folder / "photos")


def text_of(word: str) -> Work:
    def run(folder: Path) -> None:
        with text_output(folder / "list.csv") as file:
            for _ in range(4):
                file.write(f"{word}\n" * 1000)
                file.flush()
                os.fsync(file.fileno())  # a step, see `watch_steps`

    return run


def cache_state(folder: Path, name: str = "cache.h5") -> object:
    cache = FeatureCache.open(folder / name, damaged=True)
    damaged = damaged_rows(cache.layout, np.arange(len(cache.samples)))
    return cache.samples.ids, len(damaged), cache.features("val").x.tobytes()


def model_state(name: str) -> Work:
    def state(folder: Path) -> object:
        card = ModelCard.read(folder / name)
        weights = locate(folder / name, card.file).read_bytes()
        return card.head, card.metrics, weights, read_predictions(folder / name)

    return state


def content(*names: str) -> Work:
    """Of some files; None of one that is not there."""

    def state(folder: Path) -> object:
        paths = [folder / name for name in names]
        return tuple(path.read_bytes() if path.exists() else None for path in paths)

    return state


def judged(split: str) -> Work:
    def run(folder: Path) -> None:
        out = folder / "evaluated"
        evaluate(folder / "head", folder / "photos", out, split=split, backbone=toy_backbone(), device="cpu")  # type: ignore[arg-type]

    return run


def judgement(folder: Path) -> object:
    figures = json.loads((folder / "evaluated/run.json").read_bytes())
    return read_predictions(folder / "evaluated"), (figures["n"], figures["accuracy"])


def write_graph(_saved: SavedModel, last: LinearWeights, out: Path) -> ExampleCode:
    """In place of a real format, which takes seconds: the weights, and a program that names the bias."""
    with out.open("wb") as file:
        file.write(last.weight.tobytes() * 20)
    return ExampleCode(f"{last.bias.tolist()} {'#' * 2000}", "")


def exported(head: str) -> Work:
    def run(folder: Path) -> None:
        EXPORT_FORMATS.get("torch-export")  # it registers itself
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(EXPORT_FORMATS._entries, "torch-export", ExportFormat(write_graph))
            patch.setattr(exporting, "run_example", lambda *_: None)  # a fresh process imports PyTorch for seconds
            patch.setattr(exporting, "_difference", lambda *_: 0.0)
            export(folder / head, folder / "model.pt2", "torch-export", backbone=toy_backbone(), overwrite=True)

    return run


def picture(title: str) -> Callable[..., object]:
    def draw(*_: object) -> object:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.suptitle(title)
        return figure

    return draw


def drawn(title: str) -> Work:
    return lambda folder: save(picture(title), folder / "picture.svg")  # type: ignore[arg-type]


def paged(word: str) -> Work:
    return lambda folder: write_page(folder / "page.html", word, [Section(word, ["line"] * 500)])


def reported(data: str) -> Work:
    def run(folder: Path) -> None:
        comparison = four_routes()
        comparison.settings["data"] = data
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(comparison_figure, "plot_comparison", picture(data))  # the real one takes half a second
            write_report(comparison, folder / "report")

    return run


def images_of(folder: Path, name: str = "images.h5") -> tuple[ImageCache, dict[bytes, Path]]:
    manifest = read_manifest(folder / "photos")
    rows = range(len(manifest.samples))
    files = {manifest.samples.sha256[row].tobytes(): Path(str(manifest.path(row))) for row in rows}
    return ImageCache(folder / name, manifest, 12), files


def keep_images(folder: Path, at_most: int = 7) -> None:
    cache, files = images_of(folder)
    with closing(cache):
        for sha256, path in list(files.items())[:at_most]:
            if cache.get(sha256) is None:
                cache.keep(sha256, decode(path.read_bytes()))


def kept_images(folder: Path) -> object:
    """Of each image the pixels, or None."""
    cache, files = images_of(folder)
    with closing(cache):
        kept = [cache.get(sha256) for sha256 in files]
        return tuple(None if one is None else one.tobytes() for one in kept)


def converted(word: str) -> Work:
    """Keep a network as a conversion does, without OpenVINO, which takes seconds."""

    def save_model(model: bytes, draft: Path, **_: object) -> None:
        for path in (draft, draft.with_suffix(".bin")):
            path.write_bytes(model)

    def run(folder: Path) -> None:
        path = folder / "home/toy-1234.xml"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conversion, "import_openvino", lambda: SimpleNamespace(save_model=save_model))
            with conversion.draft(word.encode() * 2000, path) as draft:
                if draft:
                    conversion.save(draft, path)

    return run


def conversion_state(folder: Path) -> object:
    """What a reader takes: nothing where the hash is not that of both files."""
    path = folder / "home/toy-1234.xml"
    return (path.read_bytes(), path.with_suffix(".bin").read_bytes()) if conversion.is_valid(path) else None


def sort_by(how: str) -> Work:
    def run(folder: Path) -> None:
        sorter = FileSorter(folder / "sorted", how, ("ants", "bees"))  # type: ignore[arg-type]
        for path in list_images(folder / "new"):
            sorter.sort(Prediction(str(path), "ants", (("ants", 0.9),)))

    return run


def sorted_state(folder: Path) -> object:
    """Each content with its names, once in a class or where it was."""
    found = [path for place in ("new", "sorted") if (folder / place).is_dir() for path in list_images(folder / place)]
    return sorted((str(path.relative_to(folder)), path.read_bytes()) for path in found)


ACTIONS = {
    "extract": Action(
        extraction("fresh.h5"), extracted("fresh.h5"), extraction("fresh.h5", 2), unfinished=("fresh.h5.partial",)
    ),
    "extract, going on": Action(
        extraction("begun.h5"), extracted("begun.h5", 4), extraction("begun.h5"), unfinished=("begun.h5.partial",)
    ),
    "update": Action(updated("fewer"), cache_state, updated("fewest"), unfinished=("cache.h5.partial",)),
    "verify --repair": Action(
        mend, lambda folder: cache_state(folder, "damaged.h5"), unfinished=("damaged.h5.partial",)
    ),
    "fit-head": Action(
        lambda folder: fit_head(folder / "cache.h5", folder / "head", head="centroid"),
        model_state("head"),
        lambda folder: fit_head(folder / "cache.h5", folder / "head", head="lda"),
    ),
    "finetune": Action(tune, model_state("run")),
    "finetune --image-cache": Action(keep_images, kept_images, separate=True),
    "evaluate": Action(judged("all"), judgement, judged("train"), separate=True),
    "predict -o": Action(text_of("new"), content("list.csv"), text_of("rival"), unfinished=("list.csv.unfinished",)),
    "predict --move-to": Action(sort_by("move"), sorted_state, kills=False),
    "predict --link-to": Action(sort_by("link"), sorted_state, kills=False),
    "export": Action(exported("head"), content("model.pt2", "model.pt2.py"), exported("third"), separate=True),
    "pull": Action(
        lambda folder: pull(f"file://{folder}/cache.h5", folder / "pulled.h5"),
        content("pulled.h5"),
        lambda folder: pull(f"file://{folder}/damaged.h5.sound", folder / "pulled.h5"),
        unfinished=("pulled.h5.*.pulled",),
    ),
    "push": Action(
        lambda folder: push(folder / "cache.h5", str(folder / "pushed.h5"), overwrite=True),
        content("pushed.h5"),
        lambda folder: push(folder / "damaged.h5.sound", str(folder / "pushed.h5"), overwrite=True),
    ),
    "benchmark": Action(
        reported("new"), content(*(f"report/report.{kind}" for kind in ("md", "json", "png"))), reported("rival"), True
    ),
    "show (a picture)": Action(drawn("new"), content("picture.svg"), drawn("rival")),
    "doctor --page": Action(paged("new"), content("page.html"), paged("rival")),
    "the converted network": Action(converted("new"), conversion_state, converted("rival"), optional=True),
}
ALONE = [name for name, action in ACTIONS.items() if action.kills]
"""Those that are tried here without a second writer, too."""


def make_everything(folder: Path) -> None:
    """What the actions write over."""
    write_folder(folder / "photos")
    for name, lacking in (("fewer", 1), ("fewest", 2)):
        write_folder(folder / name)
        for number in range(lacking):
            (folder / name / f"train/ants/00{number}.png").unlink()
    toy_cache(folder / "photos", folder / "cache.h5")
    for name in ("damaged.h5", "pushed.h5"):
        shutil.copy(folder / "cache.h5", folder / name)
    toy_cache(folder / "fewest", folder / "damaged.h5.sound")
    region = FeatureCache.open(folder / "damaged.h5").layout.layers["penultimate"]
    with (folder / "damaged.h5").open("r+b") as file:
        file.seek(region.offset)
        file.write(b"\xff")
    with (folder / "pushed.h5").open("ab") as file:
        file.write(b"another cache")
    for stopped in (extraction("begun.h5", rows_before_a_stop=4), lambda folder: tune(folder, 1)):
        with pytest.raises(StopError):
            stopped(folder)
    fit_head(folder / "cache.h5", folder / "head", head="linear")
    for name, head in (("other", "centroid"), ("third", "lda")):
        fit_head(folder / "cache.h5", folder / name, head=head)
    keep_images(folder, 4)
    for old in (drawn("old"), paged("old"), reported("old"), judged("val"), exported("other")):
        old(folder)
    (folder / "list.csv").write_text("old\n", encoding="ascii")
    write_folder(folder / "new", {"pictures": 3}, seed=7)


class Found(NamedTuple):
    """What a fault left.

    state : "old", "new", "some old, some new" or "broken". ended : how the process did. left : names that neither
    state has, but for work that the same call goes on with. again : the state after the same call, undisturbed, and
    the names that it left; "" where it was not tried.
    """

    state: str
    ended: Ended
    left: tuple[str, ...] = ()
    again: str = ""


class Pair(NamedTuple):
    """What two writers left.

    kept : whose result is there whole, "first" or "second", or "broken". left : names that no undisturbed call
    leaves.
    """

    kept: str
    first: Ended
    second: Ended
    left: tuple[str, ...] = ()


class Site:
    """A folder with everything, and copies of it in which actions are disturbed."""

    def __init__(self, before: Path) -> None:
        self.before = before
        self._after: dict[tuple[str, str], tuple[object, frozenset[str], bool]] = {}
        make_everything(before)

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """A copy, which others than root can enter."""
        with tempfile.TemporaryDirectory(prefix="featcache-test-", dir=MEMORY) as name:
            os.chmod(name, 0o755)
            shutil.copytree(self.before, name, dirs_exist_ok=True)
            yield Path(name)

    def state(self, name: str, order: str = "") -> tuple[object, frozenset[str], bool]:
        """What is there, all names, and whether no call was refused.

        order : "" before any; else undisturbed calls, one after the other, of the action ("1") and of its rival ("2").
        """
        if (name, order) not in self._after:
            action = ACTIONS[name]
            with self.copy() as folder:
                works = [action.run if one == "1" else action.rival or action.run for one in order]
                ended = [run_apart(partial(work, folder)) for work in works]
                assert all(one.refused or not one.error for one in ended), ended
                accepted = not any(one.refused for one in ended)
                self._after[name, order] = action.state(folder), _names(folder), accepted
        return self._after[name, order]

    def full_disk(self, name: str, limit: int) -> Found:
        """No file can become larger than `limit` bytes."""

        def work(folder: Path) -> None:
            with file_size_limit(limit):
                ACTIONS[name].run(folder)

        with self.copy() as folder:
            return self._found(name, folder, run_apart(lambda: work(folder)))

    def kill(self, name: str, number: int, again: bool = True) -> Found | None:
        """SIGKILL before a step; None where there are fewer."""
        with self.copy() as folder:
            ended = killed_at(number, ACTIONS[name].run, folder)
            return self._found(name, folder, ended, again) if ended.killed else None

    def lost_permission(self, name: str) -> Found:
        """The process may write nothing there; it must be of root."""

        def work(folder: Path) -> None:
            os.seteuid(NOBODY)
            try:
                ACTIONS[name].run(folder)
            finally:
                os.seteuid(0)

        with self.copy() as folder:
            return self._found(name, folder, run_apart(lambda: work(folder)))

    def second_writer(self, name: str, number: int) -> Pair | None:
        """Another process writes to the same place, before a step of the first; None where there are fewer."""
        action = ACTIONS[name]
        rival = action.rival or action.run
        with self.copy() as folder:
            first, second, came = two_at_once(number, action.run, rival, folder)
            if not came:
                return None
            state, names = action.state(folder), _names(folder)
        kept, known = "broken", self.state(name)[1]
        for order in _orders(first, second):
            expected, there, accepted = self.state(name, order)
            known |= there
            if accepted and state == expected and kept == "broken":
                kept = "second" if order.endswith("2") else "first"
        left = {one for one in names - known if not (first.refused or second.refused) or not action.goes_on(one)}
        return Pair(kept, first, second, tuple(sorted(left)))

    def _found(self, name: str, folder: Path, ended: Ended, again: bool = True) -> Found:
        action = ACTIONS[name]
        (old, before, _), (new, after, _) = self.state(name), self.state(name, "1")
        known, names, state = before | after, _names(folder), action.state(folder)
        found = "old" if state == old else "new" if state == new else "broken"
        if found == "broken" and action.separate:
            pieces = zip(state, old, new, strict=True)  # type: ignore[call-overload]
            found = "some old, some new" if all(one in (a, b) for one, a, b in pieces) else found
        left = {one for one in names - known if not action.goes_on(one)}
        then = ""
        if again:
            second = run_apart(lambda: action.run(folder))
            then = "new" if action.state(folder) == new else f"broken {second.text}"
            then = " ".join([then, *sorted(_names(folder) - known)])
        return Found(found, ended, tuple(sorted(left)), then)


class SiteProcess:
    """A `Site` in a process of its own, in which no other test has run.

    A `Site` forks, and its forks run autograd. After some other tests in the same process that fails.
    """

    def __init__(self, before: Path) -> None:
        self._pipe, theirs = context().Pipe()
        self._process = fork(_serve, before, theirs)
        theirs.close()
        self._call("start")

    def full_disk(self, name: str, limit: int) -> Found:
        """See `Site`."""
        return cast(Found, self._call("full_disk", name, limit))

    def kill(self, name: str, number: int, again: bool = True) -> Found | None:
        """See `Site`."""
        return cast(Found | None, self._call("kill", name, number, again))

    def lost_permission(self, name: str) -> Found:
        """See `Site`."""
        return cast(Found, self._call("lost_permission", name))

    def second_writer(self, name: str, number: int) -> Pair | None:
        """See `Site`."""
        return cast(Pair | None, self._call("second_writer", name, number))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _call(self, method: str, *arguments: object) -> object:
        self._pipe.send((method, arguments))
        error, result = self._pipe.recv()
        assert not error, error
        return result


def _serve(before: Path, pipe: Any) -> None:
    """Answer the calls of a `SiteProcess` until its pipe is closed."""
    site = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            if site is None:
                site, answer = Site(before), None
            else:
                answer = getattr(site, method)(*arguments)
        except Exception:
            pipe.send((traceback.format_exc(), None))
        else:
            pipe.send(("", answer))


def is_full(ended: Ended) -> bool:
    """Whether it says that the disk is full."""
    return ended.refused or ended.errno in FULL


def each(fault: Callable[[int], Found | Pair | None]) -> Iterator[Found | Pair]:
    """A fault at each step."""
    for number in itertools.count():
        found = fault(number)
        if found is None:
            return
        yield found


def _orders(first: Ended, second: Ended) -> tuple[str, ...]:
    """What two writers at once may be like: a call that was refused did nothing, else one came after the other."""
    if first.error or second.error:
        return {(True, False): ("2",), (False, True): ("1",)}.get((first.refused, second.refused), ())
    return "12", "21"


def _names(folder: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))
