"""Extraction on a cluster: the same cache as on one machine, whoever is killed in between."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clusters import fully_booked, make_whole, two_machines
from commands import PATHS, ROOT, featcache_cli, write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.paths import partial_path
from featcache.core.ray_cluster import WAITING_MESSAGE, Cluster, _connect
from featcache.errors import ClusterError, MissingExtraError, UnreadableImageError
from featcache.extraction.extract import extract
from featcache.extraction.results import Extraction
from killers import slow_backbone
from toys import toy_backbone
from toytexts import toy_text_encoder

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")

COUNTS = {"train/ants": 60, "train/bees": 50, "val/ants": 20, "val/bees": 17}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """147 images, one of them broken."""
    root = write_folder(tmp_path_factory.mktemp("cluster") / "data", COUNTS)
    (root / "train/bees/007.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def alone(data: Path) -> FeatureCache:
    return extract(data, data.parent / "alone.h5", backbone=toy_backbone(), views=2, workers=2).cache


@pytest.fixture(scope="module")
def kept() -> Iterator[Any]:
    with two_machines() as found:
        yield found


@pytest.fixture
def machines(kept: Any) -> Any:
    make_whole(kept)
    return kept


def the_same(found: FeatureCache, expected: FeatureCache) -> None:
    assert found.samples.digest() == expected.samples.digest()
    assert found.spec == expected.spec
    assert found.skipped == expected.skipped
    np.testing.assert_array_equal(found.done, expected.done)
    for layer, region in expected.layout.layers.items():
        np.testing.assert_array_equal(
            found.layout.layers[layer].view(found.layout.data), region.view(expected.layout.data)
        )


def on_cluster(data: Path, out: Path, **options: Any) -> Extraction:
    options = {"backbone": toy_backbone(), "views": 2, "batch_size": 3, "cluster": Cluster()} | options
    return extract(data, out, **options)


def test_an_address_without_a_cluster_is_an_error(data: Path, tmp_path: Path) -> None:
    ray.shutdown()  # else this process is part of a cluster already
    result = featcache_cli("extract", data, "-o", tmp_path / "cache.h5", "--cluster", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "Error: there is no Ray cluster at 127.0.0.1:1: " in result.stderr


def test_the_cache_is_that_of_one_machine(machines: Any, data: Path, alone: FeatureCache, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = on_cluster(data, tmp_path / "cache.h5", progress=lambda *now: told.append(now))
    the_same(found.cache, alone)
    assert found.extracted == 146
    steps = [done for what, done, _ in told if what == "extract"]
    assert steps == sorted(steps)
    assert steps[-1] == 147
    assert {total for what, _, total in told if what == "extract"} == {147}
    again = on_cluster(data, tmp_path / "cache.h5")
    assert again.extracted == 0


def test_a_killed_worker_loses_only_what_it_had(machines: Any, data: Path, alone: FeatureCache, tmp_path: Path) -> None:
    fatal = tmp_path / "fatal"
    threading.Timer(1.0, fatal.touch).start()
    told: list[str] = []
    found = on_cluster(data, tmp_path / "cache.h5", backbone=slow_backbone(str(fatal)), on_note=told.append)
    the_same(found.cache, alone)
    assert not fatal.exists()  # a worker took it with it
    (note,) = [note for note in told if note.startswith("a worker died")]
    assert re.fullmatch(r"a worker died \(.*[^.]\); other workers take over its \d+ samples", note)


def test_of_a_death_nothing_stands_on_stdout(machines: Any, data: Path, alone: FeatureCache, tmp_path: Path) -> None:
    """Ray would say it there, where --json's object goes."""
    (tmp_path / "fatal").touch()
    ran = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/killers.py", data, tmp_path / "cache.h5", machines.address,
         tmp_path / "fatal"],
        env={**os.environ, "PYTHONPATH": PATHS}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not (tmp_path / "fatal").exists()
    assert ran.stdout == ""
    the_same(FeatureCache.open(tmp_path / "cache.h5"), alone)


def test_a_killed_driver_loses_only_what_was_under_way_and_any_machines_go_on(
    machines: Any, data: Path, alone: FeatureCache, tmp_path: Path
) -> None:
    out = tmp_path / "cache.h5"
    with subprocess.Popen(
        [sys.executable, ROOT / "tests/helpers/killers.py", data, out, machines.address],
        env={**os.environ, "PYTHONPATH": PATHS},
    ) as driver:
        end = time.monotonic() + 120
        while not (partial_path(out).exists() and FeatureCache.open(partial_path(out), partial=True).done.any()):
            assert time.monotonic() < end
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
    before = FeatureCache.open(partial_path(out), partial=True).done
    assert 0 < np.count_nonzero(before) < 146
    machines.add_node(num_cpus=1)
    half = tmp_path / "half.h5"
    shutil.copy(partial_path(out), partial_path(half))
    found = on_cluster(data, out)
    the_same(found.cache, alone)
    assert found.extracted == 146 - np.count_nonzero(before)
    here = extract(data, half, backbone=toy_backbone(), views=2)  # no cluster at all
    the_same(here.cache, alone)
    assert here.extracted == found.extracted


def test_a_killed_machine_loses_only_what_it_had(
    machines: Any, data: Path, alone: FeatureCache, tmp_path: Path
) -> None:
    removed = []

    def remove(what: str, done: int, total: int) -> None:
        if what == "extract" and not removed:
            removed.append(machines.worker_nodes.copy().pop())
            machines.remove_node(removed[0], allow_graceful=False)

    found = on_cluster(data, tmp_path / "cache.h5", backbone=slow_backbone(), progress=remove)
    assert removed
    the_same(found.cache, alone)


def test_an_image_that_kills_workers_is_named(machines: Any, data: Path, tmp_path: Path) -> None:
    fatal = "train/bees/030.png"
    bad = shutil.copytree(data, tmp_path / "data")
    Image.new("RGB", (40, 40), "white").save(bad / fatal)
    with pytest.raises(ClusterError) as caught:
        on_cluster(bad, tmp_path / "cache.h5", backbone=slow_backbone("white"))
    said = re.match(r"3 workers died, the last over (\d+) samples from (\S+) to (\S+): ", str(caught.value))
    assert said
    count, first, last = said.groups()
    assert int(count) <= 64
    assert first <= fatal <= last
    kept = FeatureCache.open(partial_path(tmp_path / "cache.h5"), partial=True).done
    assert np.count_nonzero(kept) > 0


def test_errors_of_workers_are_those_of_one_machine(
    machines: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        on_cluster(data, tmp_path / "cache.h5", strict=True)
    assert str(caught.value).startswith(f"{data / 'train/bees/007.png'} cannot be read: ")
    assert "ray::" not in str(caught.value)


def test_machines_that_do_not_see_the_images_are_named(
    machines: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featcache.extraction import ray_coordinator

    read = ray_coordinator._readable_image

    def elsewhere(manifest: Any) -> Any:
        probe = read(manifest)
        probe.manifest.source.root = str(tmp_path / "elsewhere")
        return probe

    monkeypatch.setattr(ray_coordinator, "_readable_image", elsewhere)
    with pytest.raises(ClusterError) as caught:
        on_cluster(data, tmp_path / "cache.h5")
    assert f" cannot read {tmp_path / 'elsewhere/train/ants/000.png'}: No such file or directory." in str(caught.value)


def test_a_cluster_without_what_workers_need_is_an_error(machines: Any, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        on_cluster(data, tmp_path / "cache.h5", cluster=Cluster(gpus_per_worker=1))
    assert str(caught.value) == (
        "a worker needs 1 GPUs and 1 cores; the cluster has machines with 0 GPUs, 1 cores; 0 GPUs, 1 cores."
    )


def test_machines_without_featcache_are_told_so(
    machines: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Workman:
        def __init__(self) -> None:
            raise ModuleNotFoundError("No module named 'featcache'")

        def warm_up(self, *_: Any) -> None: ...

    monkeypatch.setattr("featcache.extraction.ray_coordinator.ExtractionWorker", Workman)
    with pytest.raises(ClusterError) as caught:
        on_cluster(data, tmp_path / "cache.h5")
    assert str(caught.value) == (
        "on each machine 3 workers in a row failed before they did any work. The last reason: ModuleNotFoundError: No "
        "module named 'featcache'. Check that all machines have the same version of featcache and enough memory for "
        "the network. The logs of Ray have more details."
    )


@pytest.mark.parametrize(("known", "note", "answers", "asked"), [
    ("", None, True, ["auto"]), ("", None, False, ["auto", "local"]), ("", "127.0.0.1:1", True, ["local"]),
    ("local", "127.0.0.1:1", True, ["local"]),
])  # fmt: skip
def test_a_cluster_that_is_no_more_is_not_waited_for(
    known: str, note: str | None, answers: bool, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray keeps the address of one that was killed, and would try it for minutes. known : RAY_ADDRESS."""
    if note:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray/ray_current_cluster").write_text(note)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", known)
    found: list[str] = []

    class Ray:
        @staticmethod
        def init(address: str, **_: Any) -> None:
            found.append(address)
            if address == "auto" and not answers:
                raise ConnectionError("no cluster")

    _connect(Ray, "auto")
    assert found == asked


def test_it_is_said_that_other_work_has_the_cluster(
    machines: Any, data: Path, alone: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.core.ray_cluster.STARTUP_WARNING_S", 0.5)
    told, note = fully_booked()
    found = extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=2, cluster=Cluster(), on_note=note)
    the_same(found.cache, alone)
    assert told[1:] == [WAITING_MESSAGE]  # after the line on the data


def test_a_cluster_that_is_left_on_the_way_is_not_replaced(machines: Any, data: Path, tmp_path: Path) -> None:
    """To send workers home Ray would start a new cluster, look for them there, and end this process."""

    def leave(what: str, done: int, total: int) -> None:
        if what == "extract" and done:
            ray.shutdown()
            raise RuntimeError("left")

    with pytest.raises(RuntimeError, match="left"):
        on_cluster(data, tmp_path / "cache.h5", backbone=slow_backbone(), progress=leave)
    assert not ray.is_initialized()


@pytest.mark.parametrize("gpus", [-1, 1.5, math.nan, math.inf])
def test_there_is_no_such_number_of_gpus(gpus: float) -> None:
    with pytest.raises(ClusterError) as caught:
        Cluster(gpus_per_worker=gpus)
    assert str(caught.value) == (f"gpus_per_worker is {gpus}; give 0, a fraction of one GPU, or a whole number.")


def test_the_old_name_of_workers_per_node_works_with_a_warning() -> None:
    cluster = Cluster(gpus_per_worker=0.5)
    with pytest.warns(DeprecationWarning, match=r"use Cluster\.workers_per_node"):
        assert cluster.room({"CPU": 8, "GPU": 2}) == cluster.workers_per_node({"CPU": 8, "GPU": 2}) == (4, 2)


@pytest.mark.parametrize(("gpus", "asked", "device"), [
    (0, "auto", "cpu"), (0, "cuda", "cuda"), (0.5, "auto", "auto"), (1, "cpu", "cpu"),
])  # fmt: skip
def test_a_worker_without_gpus_takes_none(
    gpus: float, asked: str, device: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray lets it see those of its machine, all workers the same."""
    requests: list[Any] = []

    def noted(manifest: Any, request: Any, cluster: Cluster, monitor: Any) -> None:
        requests.append(request)
        raise ClusterError("that will do")

    monkeypatch.setattr("featcache.extraction.extract.RayExtractor", noted)
    with pytest.raises(ClusterError, match="that will do"):
        extract(data, tmp_path / "cache.h5", device=asked, cluster=Cluster(gpus_per_worker=gpus))
    assert requests[0].options["device"] == device


def test_options_of_workers_need_a_cluster(data: Path, tmp_path: Path) -> None:
    result = featcache_cli("extract", data, "-o", tmp_path / "cache.h5", "--gpus-per-worker", "1")
    assert result.exit_code == 2
    assert "--gpus-per-worker and --cpus-per-worker need --cluster" in result.stderr
    result = featcache_cli("extract", data, "-o", tmp_path / "cache.h5", "--cluster", "auto", "--dry-run")
    assert result.exit_code == 2
    assert "--dry-run measures a few samples on this machine: drop --cluster" in result.stderr


def test_without_ray_the_line_to_type_is_said(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError) as caught:
        on_cluster(data, tmp_path / "cache.h5")
    assert str(caught.value) == 'this needs ray, which is not installed: pip install -e ".[ray]" in the clone'


def test_texts_on_a_cluster_are_the_same_cache(machines: Any, tmp_path: Path) -> None:
    words = ["good", "bad", "film", "dull", "very", "a"]
    lines = [f"{' '.join(words[(n + k) % 6] for k in range(n % 7 + 1))} {n},{'ab'[n % 2]}" for n in range(80)]
    (tmp_path / "list.csv").write_text("\n".join(["text,label", *lines]))
    alone = extract(tmp_path / "list.csv", tmp_path / "1.h5", backbone=toy_text_encoder()).cache
    joined = extract(tmp_path / "list.csv", tmp_path / "2.h5", backbone=toy_text_encoder(), cluster=Cluster("auto"))
    assert joined.cache.spec == alone.spec
    for split in ("train", "val"):
        x, y = (cache.features(split).x.astype(np.float32) for cache in (alone, joined.cache))
        np.testing.assert_allclose(x, y, atol=1e-3)
