"""After a full disk, a kill or a lost permission the old file or model is there, whole, and the same call works."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import drop_hashes, toy_cache, write_folder
from featcache import exporting, updating
from featcache.atomic import FULL
from featcache.cache import FeatureCache
from featcache.card import ModelCard
from featcache.checksums import damaged_rows
from featcache.drawing import save
from featcache.errors import FeatcacheError
from featcache.evaluating import evaluate
from featcache.exporting import export
from featcache.files import draft_of
from featcache.finetuning import finetune
from featcache.fitting import fit_head
from featcache.folding import Layer
from featcache.headfile import load_head
from featcache.modelfolder import locate
from featcache.network import Network
from featcache.page import Section, write_page
from featcache.predictions import read_predictions
from featcache.saved import SavedModel
from featcache.training import Recipe, linear_layer
from featcache.transfer import pull, push
from featcache.updating import repair, update
from limits import file_size_limit, killed_at, steps_counted
from toys import toy_backbone
from trainable import trainable_backbone


class Action(NamedTuple):
    """Something that writes over what is there.

    state : what is there, as its readers see it. separate : whether it is several files, each of which has its state: a
    kill may leave the old one of some and the new one of others.
    """

    run: Callable[[Path], object]
    state: Callable[[Path], object]
    separate: bool = False

    def is_whole(self, state: object, old: object, new: object) -> bool:
        """Whether a state that a kill left is the old or the new one."""
        if self.separate:
            files = zip(state, old, new, strict=True)  # type: ignore[call-overload]
            return all(one in (before, after) for one, before, after in files)
        return state in (old, new)


class StopError(Exception):
    pass


def tune(folder: Path, epochs_before_a_stop: int = 9) -> None:
    def stop(epoch: object) -> None:
        if getattr(epoch, "epoch", 0) == epochs_before_a_stop:
            raise StopError

    run = folder / "run"
    options = {"backbone": trainable_backbone(), "recipe": Recipe(epochs=2, batch_size=4), "workers": 1}
    finetune(folder / "photos", run, resume=run.exists(), on_epoch=stop, **options)


def write_text(folder: Path) -> None:
    with draft_of(folder / "list.csv") as file:
        file.write("new\n" * 4000)


def cache_state(folder: Path, name: str = "cache.h5") -> object:
    cache = FeatureCache.open(folder / name, damaged=True)
    damaged = damaged_rows(cache.layout, updating.np.arange(len(cache.samples)))
    return cache.samples.ids, len(damaged), cache.features("val").x.tobytes()


def model_state(folder: Path) -> object:
    card = ModelCard.read(folder)
    return card.head, card.metrics, locate(folder, card.file).read_bytes(), read_predictions(folder)


def content(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).read_bytes()


def judge(folder: Path, split: str = "all") -> None:
    out = folder / "evaluated"
    evaluate(folder / "head", folder / "photos", out, split=split, backbone=toy_backbone(), device="cpu")  # type: ignore[arg-type]


def judged(folder: Path) -> object:
    figures = json.loads((folder / "evaluated/run.json").read_bytes())
    return read_predictions(folder / "evaluated"), (figures["n"], figures["accuracy"])


def write_graph(_saved: SavedModel, last: Layer, out: Path) -> str:
    """In place of a real format, which takes seconds: the weights, and a program with a mark."""
    with out.open("wb") as file:
        file.write(last.weight.tobytes() * 20)
    return f"# Written by `featcache export`\n{last.bias.tolist()} {'#' * 2000}\n"


def write_model(folder: Path, head: str = "head") -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(exporting.WRITERS, "torch-export", write_graph)
        patch.setattr(exporting, "run_example", lambda *_: None)  # a fresh process imports PyTorch for seconds
        patch.setattr(exporting, "_difference", lambda *_: 0.0)
        export(folder / head, folder / "model.pt2", "torch-export", backbone=toy_backbone(), overwrite=True)


def picture(title: str) -> Callable[[], object]:
    def draw() -> object:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.suptitle(title)
        return figure

    return draw


ACTIONS = {
    "fit_head": Action(
        lambda folder: fit_head(folder / "cache.h5", folder / "head", head="centroid"),
        lambda folder: model_state(folder / "head"),
    ),
    "finetune": Action(tune, lambda folder: model_state(folder / "run")),
    "update": Action(lambda folder: update(folder / "cache.h5", folder / "fewer"), cache_state),
    "repair": Action(
        lambda folder: repair(folder / "damaged.h5", folder / "photos"),
        lambda folder: cache_state(folder, "damaged.h5"),
    ),
    "pull": Action(lambda folder: pull(f"file://{folder}/cache.h5", folder / "pulled.h5"), lambda folder: None),
    "push": Action(
        lambda folder: push(folder / "cache.h5", str(folder / "pushed.h5"), overwrite=True), content("pushed.h5")
    ),
    "picture": Action(
        lambda folder: save(picture("new"), folder / "picture.svg"),  # type: ignore[arg-type]
        content("picture.svg"),
    ),
    "page": Action(
        lambda folder: write_page(folder / "page.html", "new", [Section("new", ["line"] * 500)]), content("page.html")
    ),
    "list": Action(write_text, content("list.csv")),
    "evaluate": Action(judge, judged, separate=True),
    "export": Action(
        write_model, lambda folder: tuple((folder / name).read_bytes() for name in ("model.pt2", "model.pt2.py")), True
    ),
}


@pytest.fixture(scope="module")
def before() -> Iterator[Path]:
    """A folder with everything that the actions write over; others than root can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="featcache-test-"))
    write_folder(folder / "photos")
    write_folder(folder / "fewer")
    (folder / "fewer/train/ants/000.png").unlink()
    toy_cache(folder / "photos", folder / "cache.h5")
    for name in ("damaged.h5", "pushed.h5"):
        shutil.copy(folder / "cache.h5", folder / name)
    region = FeatureCache.open(folder / "damaged.h5").layout.layers["penultimate"]
    with (folder / "damaged.h5").open("r+b") as file:
        file.seek(region.offset)
        file.write(b"\xff")
    with (folder / "pushed.h5").open("ab") as file:
        file.write(b"another cache")
    fit_head(folder / "cache.h5", folder / "head", head="linear")
    with pytest.raises(StopError):
        tune(folder, 1)
    save(picture("old"), folder / "picture.svg")  # type: ignore[arg-type]
    write_page(folder / "page.html", "old", [Section("old", ["line"] * 500)])
    (folder / "list.csv").write_text("old\n")
    judge(folder, "val")
    fit_head(folder / "cache.h5", folder / "other", head="centroid")
    write_model(folder, "other")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def folder(before: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(updating, "network_of", lambda *_: toy_backbone())
    with tempfile.TemporaryDirectory(prefix="featcache-test-") as name:
        os.chmod(name, 0o755)
        shutil.copytree(before, name, dirs_exist_ok=True)
        yield Path(name)


@pytest.fixture(scope="module")
def after(before: Path) -> Callable[[str], object]:
    """What is there when an action was not disturbed."""
    states: dict[str, object] = {}

    def state(name: str) -> object:
        if name not in states:
            with tempfile.TemporaryDirectory() as copy, pytest.MonkeyPatch.context() as patch:
                patch.setattr(updating, "network_of", lambda *_: toy_backbone())
                shutil.copytree(before, copy, dirs_exist_ok=True)
                ACTIONS[name].run(Path(copy))
                states[name] = ACTIONS[name].state(Path(copy))
        return states[name]

    return state


def drafts(folder: Path) -> list[str]:
    """Also folders of drafts."""
    return sorted(path.name for pattern in ("*.draft", ".*.pt2.*") for path in folder.rglob(pattern))


@pytest.mark.parametrize("limit", [16, 1500])
@pytest.mark.parametrize("name", ACTIONS)
def test_a_full_disk_leaves_what_was_there_and_the_same_call_then_works(
    name: str, limit: int, folder: Path, after: Callable[[str], object]
) -> None:
    run, state, _ = ACTIONS[name]
    old = state(folder)
    with file_size_limit(limit), pytest.raises((FeatcacheError, OSError)) as caught:
        run(folder)
    assert isinstance(caught.value, FeatcacheError) or caught.value.errno in FULL
    assert state(folder) == old
    assert drafts(folder) == []
    run(folder)
    assert state(folder) == after(name)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # the child runs no threads
@pytest.mark.parametrize("name", ACTIONS)
def test_a_kill_at_any_step_leaves_the_old_or_the_new(
    name: str, folder: Path, before: Path, after: Callable[[str], object]
) -> None:
    run, state, _ = ACTIONS[name]
    old, new = state(folder), after(name)
    number = 0
    while killed_at(number, run, folder):
        assert ACTIONS[name].is_whole(state(folder), old, new), f"killed before step {number}"
        if number % 5 == 0:
            run(folder)
            assert state(folder) == new, f"killed before step {number}"
            assert drafts(folder) == []
            shutil.rmtree(folder)
            shutil.copytree(before, folder)
        number += 1
    assert number > 0
    assert state(folder) == new


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ACTIONS)
def test_a_lost_permission_leaves_what_was_there(name: str, folder: Path) -> None:
    run, state, _ = ACTIONS[name]
    old = state(folder)
    os.seteuid(65534)  # nobody: it may read all of it and write none
    try:
        with pytest.raises((FeatcacheError, PermissionError)) as caught:
            run(folder)
    finally:
        os.seteuid(0)
    assert str(folder) in str(caught.value)
    assert "ermission" in str(caught.value)
    assert state(folder) == old
    assert drafts(folder) == []


def test_the_steps_are_counted(tmp_path: Path) -> None:
    with steps_counted() as count:
        save(picture("new"), tmp_path / "picture.svg")  # type: ignore[arg-type]
    assert count[0] == 3  # the draft is flushed, gets its name, and the folder is flushed


@pytest.mark.skipif(not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize(("model", "file"), [("head", "head.safetensors"), ("run", "network.safetensors")])
def test_a_model_that_its_owner_alone_can_read_is_called_that(
    model: str, file: str, hashes: bool, folder: Path
) -> None:
    path = folder / model / file
    assert path.stat().st_mode & 0o777 == (folder / model / "model.json").stat().st_mode & 0o777
    if not hashes:
        drop_hashes(folder / model)
    path.chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=rf"chmod a\+r '{path}'"):
            load_head(locate(folder / model, file)) if model == "head" else saved_network(folder / model)
    finally:
        os.seteuid(0)


def saved_network(run: Path) -> Network:
    network = Network(trainable_backbone().module, linear_layer(4, 2, 0))
    network.load(locate(run, "network.safetensors"))
    return network
