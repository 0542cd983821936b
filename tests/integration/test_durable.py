"""A table: every command that writes, by a full disk, a kill at any step, a lost permission and a second writer.

The rows, and what is left out, are in helpers/faults.py. After each fault the old file or model is there, or the new
one, whole, and the same call works. `benchmarks/faults.py` prints the table.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from commands import drop_hashes
from faults import ACTIONS, ALONE, MEMORY, NOBODY, SiteProcess, is_full, model_state
from featcache.core.model_folder import locate
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.training.loop import linear_layer
from featcache.training.network import BackboneWithHead
from limits import killed_at, run_apart
from trainable import trainable_backbone

WHOLE = {True: {"old", "new", "some old, some new"}, False: {"old", "new"}}
only_root = pytest.mark.skipif(
    not hasattr(os, "seteuid") or os.geteuid() != 0, reason="only root can become another user"
)


@pytest.fixture(scope="module")
def everything() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="featcache-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def site(everything: Path) -> Iterator[SiteProcess]:
    with closing(SiteProcess(everything)) as site:
        yield site


@pytest.fixture
def folder(site: SiteProcess, everything: Path) -> Iterator[Path]:
    """A copy of everything that `site` has made."""
    with tempfile.TemporaryDirectory(prefix="featcache-test-", dir=MEMORY) as name:
        yield Path(shutil.copytree(everything, name, dirs_exist_ok=True))


@pytest.mark.parametrize("limit", [16, 1500])
@pytest.mark.parametrize("name", ALONE)
def test_a_full_disk_leaves_what_was_there_and_the_same_call_then_works(
    name: str, limit: int, site: SiteProcess
) -> None:
    found = site.full_disk(name, limit)
    assert (found.state, found.left, found.again) == ("old", (), "new"), found.ended.text
    assert is_full(found.ended) is not ACTIONS[name].optional


@pytest.mark.parametrize("name", ALONE)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_and_the_same_call_then_works(
    name: str, site: SiteProcess
) -> None:
    for number in itertools.count():
        found = site.kill(name, number, again=number % 8 == 0)
        if found is None:
            break
        assert found.state in WHOLE[ACTIONS[name].separate], f"killed before step {number}"
        assert found.again in ("new", ""), f"killed before step {number}"
    assert number > 1


@only_root
@pytest.mark.parametrize("name", ALONE)
def test_a_lost_permission_leaves_what_was_there(name: str, site: SiteProcess) -> None:
    found = site.lost_permission(name)
    assert (found.state, found.left, found.again) == ("old", (), "new")
    if not ACTIONS[name].optional:
        assert "ermission denied" in found.ended.text
        assert "featcache-test-" in found.ended.text  # it names the file


@pytest.mark.parametrize("name", ACTIONS)
def test_of_two_writers_one_is_there_whole_or_one_is_refused(name: str, site: SiteProcess) -> None:
    """Before each of the first steps, then before every seventh; benchmarks/faults.py tries all."""
    for number in itertools.chain(range(4), itertools.count(4, 7)):
        found = site.second_writer(name, number)
        if found is None:
            break
        assert (found.kept, found.left) in (("first", ()), ("second", ())), f"before step {number}: {found}"
    assert number > 1


@pytest.mark.parametrize("first", [14, 17, 20])
def test_after_two_kills_there_is_a_whole_model(first: int, folder: Path) -> None:
    """The first one comes after the step: files of the new model have the names of drafts still."""
    fit = {name: lambda folder, name=name: fit_head(folder / "cache.h5", folder / "head", head=name)
           for name in ("centroid", "lda")}  # fmt: skip
    state, begun = model_state("head"), folder.with_name(f"{folder.name}-begun")
    assert killed_at(first, fit["centroid"], folder).killed
    between = state(folder)
    shutil.copytree(folder, begun)
    try:
        run_apart(lambda: fit["lda"](folder))
        new = state(folder)
        for number in itertools.count():
            shutil.rmtree(folder)
            shutil.copytree(begun, folder)
            if not killed_at(number, fit["lda"], folder).killed:
                break
            assert state(folder) in (between, new), f"killed before step {number}"
        assert number > 1
    finally:
        shutil.rmtree(begun)


@only_root
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
    os.seteuid(NOBODY)
    try:
        with pytest.raises(PermissionError, match=rf"chmod a\+r '{path}'"):
            load_head(locate(folder / model, file)) if model == "head" else saved_network(folder / model)
    finally:
        os.seteuid(0)


def saved_network(run: Path) -> BackboneWithHead:
    network = BackboneWithHead(trainable_backbone().module, linear_layer(4, 2, 0))
    network.load(locate(run, "network.safetensors"))
    return network
