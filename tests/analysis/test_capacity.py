"""The plan for data that is not there yet follows its formula, and its rates are those of what is."""

from __future__ import annotations

import os
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import write_folder
from featcache._utils.environment import usable_cores
from featcache.analysis.planning.capacity import CapacityPlan, Prices, Rates, plan_capacity
from featcache.analysis.planning.rates import RAY_S, _look_rate, _Seen, measure_rates
from featcache.cache.format.layout import REASON_BYTES
from featcache.data.manifest import read_manifest
from featcache.errors import EmptyFolderError
from featcache.extraction.extract import extract
from featcache.reports.capacity_page import write_capacity_page
from featcache.reports.plots import plot_capacity
from pagereader import read_page

CPU = Rates(
    image_bytes=100_000,
    views=5.0,
    decode_s=0.004,
    view_s=0.001,
    cores=4,
    forward_s=0.002,
    on_gpu=False,
    look_rate=1e9,
    driver_s=1e-4,
    row_s=1e-6,
    cache_bytes=13_000,
    memory_bytes=150,
)
GPU = replace(CPU, on_gpu=True, forward_s=0.0001)
IDLE = replace(GPU, look_rate=1e12, row_s=1e-12)  # but for the extraction
OPTIONS: dict[str, Any] = {"backbone": "mobilenet_v3_small", "weights": "none", "views": 2, "image_size": 32}


def test_a_cpu_decodes_and_computes_in_turn_and_a_gpu_beside() -> None:
    assert CPU.stages == {"cores and network": pytest.approx((0.004 + 0.005) / 4 + 0.01)}
    assert GPU.stages == {"cores": pytest.approx(0.00225), "network": pytest.approx(0.0005)}
    assert GPU.worker_s == pytest.approx(0.00225)
    assert GPU.cores_wanted == pytest.approx(18)
    assert GPU.most_workers == pytest.approx(22.5)


def test_each_phase_is_as_the_formula_says() -> None:
    (one,) = plan_capacity(CPU, [1_000_000], [10]).scenarios
    assert one.seconds == {"look": pytest.approx(100), "extract": pytest.approx(1225), "fit": pytest.approx(75)}
    assert one.total_s == pytest.approx(1400)
    assert one.limit == "extract: cores and network"
    assert (one.cache_bytes, one.memory_bytes) == (13e9, 150e6)
    assert one.cost == {}
    (hashed,) = plan_capacity(CPU, [1_000_000], [10], hashed=True, passes=300).scenarios
    assert hashed.seconds == {"look": 0, "extract": one.seconds["extract"], "fit": 2 * one.seconds["fit"]}


@pytest.mark.parametrize(
    ("rates", "workers", "limit"),
    [
        (IDLE, 1, "extract: cores"),
        (replace(IDLE, cores=64), 1, "extract: network"),
        (replace(IDLE, cores=64, read_rate=1e7), 1, "extract: read"),
        (IDLE, 23, "extract: driver"),
        (replace(IDLE, look_rate=1e7), 23, "look"),
        (replace(IDLE, read_rate=1e7), 100, "look"),  # what no worker reads faster, this machine does not
        (replace(IDLE, row_s=1e-3), 1, "fit"),
    ],
)
def test_what_holds_it_up_is_named(rates: Rates, workers: int, limit: str) -> None:
    assert plan_capacity(rates, [1_000_000], [workers], hashed=limit != "look").scenarios[0].limit == limit


def test_prices_count_what_they_are_for() -> None:
    prices = Prices(worker_hour=3.6, storage_gb_month=0.02, thousand_reads=0.4)
    (one,) = plan_capacity(CPU, [1_000_000], [10], prices=prices).scenarios
    assert one.cost == {
        "workers": pytest.approx(0.01 * (1225 + 75)),  # a cent a second for all ten; none while files are looked at
        "storage": pytest.approx(0.26),
        "reads": pytest.approx(800),
    }
    (hashed,) = plan_capacity(CPU, [1_000_000], [10], prices=prices, hashed=True).scenarios
    assert hashed.cost["reads"] == pytest.approx(400)


positive = st.floats(1e-6, 1e3)


@settings(deadline=None)
@given(
    times=st.tuples(positive, positive, positive, positive, positive),
    on_gpu=st.booleans(),
    read=st.none() | st.floats(1e4, 1e10),
    images=st.integers(1, 10**9),
    workers=st.integers(1, 1000),
)
def test_more_workers_never_take_longer_and_more_images_never_less(
    times: tuple[float, ...], on_gpu: bool, read: float | None, images: int, workers: int
) -> None:
    decode, view, forward, driver, row = times
    rates = replace(CPU, decode_s=decode, view_s=view, forward_s=forward, driver_s=driver, row_s=row, on_gpu=on_gpu,
                    read_rate=read)  # fmt: skip
    plan = plan_capacity(rates, [images], [workers])
    one, more, twice = plan.scenarios[0], plan.at([images], [workers + 1])[0], plan.at([2 * images], [workers])[0]
    assert more.total_s <= one.total_s
    for phase, seconds in one.seconds.items():
        assert twice.seconds[phase] == pytest.approx(2 * seconds)
    assert one.seconds["extract"] >= images * driver
    limited = workers > rates.most_workers
    assert (more.seconds["extract"] == one.seconds["extract"]) or not limited


def test_the_table_and_the_remarks_are_for_people() -> None:
    told = str(plan_capacity(GPU, [9_100_000], [1, 64], prices=Prices(worker_hour=2.0)))
    header, first, second, *remarks = told.splitlines()
    assert header.split("  ")[0] == "images"
    assert first.split() == ["9,100,000", "1", "15", "minutes", "5.7", "hours", "114", "minutes", "7.8", "hours",
                             "extract:", "cores", "118.3", "GB", "1.4", "GB", "15.17"]  # fmt: skip
    assert " look  " in second
    assert remarks == [
        "- more than 22 workers would wait for the one machine that writes",
        "- a worker's GPU is kept busy by 18 cores; it has 4",
        "- a head's fit is counted as on this machine's cores: give a GPU's --row-rate",
        "- looking at the files is one machine's work: a list with a column sha256 spares it (--hashed)",
        "- the way from the storage to the workers is not counted: give its --read-rate",
        "- not counted: reading the list, starting machines, files read again, heads that are not linear",
    ]


def test_the_page_has_the_table_the_rates_the_formula_and_the_picture(tmp_path: Path) -> None:
    plan = plan_capacity(replace(GPU, given=("forward_s",)), [10**7, 10**9], [1, 8])
    page = read_page(write_capacity_page(tmp_path / "plan.html", plan, tmp_path / "photos", "resnet18"))
    plan_, rates, formula, origin = page.sections.values()
    assert plan_.tables == [[plan.header(), *plan.rows()]]
    assert plan_.notes == plan.remarks()
    assert (len(plan_.sources), plan_.captions) == (1, ["hours against workers"])
    assert rates.lines == ["with images of photos, resnet18"]
    (table,) = rates.tables
    assert ["forward_s", "10,000 views/s, on a GPU", "given"] in table
    assert [row[2] for row in table].count("given") == 1
    assert ["read_rate", "not counted", ""] in table
    assert "look      N * image_bytes / look_rate" in formula.code
    assert formula.notes[0] == "150 passes of a head's fit over the rows; hashes of the images are worked out."
    assert origin.tables[0][0] == ["what", "which"]


def test_the_picture_shows_each_number_of_images_and_where_the_driver_is_busy() -> None:
    axes = plot_capacity(plan_capacity(GPU, [10**7, 10**9], [1, 64])).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert {"10,000,000 images", "1,000,000,000 images", "more would wait for the driver"} <= set(lines)
    np.testing.assert_allclose(lines["more would wait for the driver"].get_xdata(), 22.5)
    plan = plan_capacity(GPU, [10**7], [1, 64])
    np.testing.assert_allclose(lines["10,000,000 images"].get_ydata(), [one.total_s / 3600 for one in plan.scenarios])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("rates") / "data", {"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})


def test_rates_are_those_of_the_images(data: Path, tmp_path: Path) -> None:
    cores = usable_cores() + 1
    rates = measure_rates(data, cores=cores, device="cpu", **OPTIONS)
    sizes = [os.path.getsize(path) for path in data.rglob("*.png")]
    assert rates.image_bytes == pytest.approx(np.mean(sizes))
    assert rates.views == pytest.approx((16 * 3 + 8) / 24)
    assert (rates.cores, rates.on_gpu, rates.given) == (cores, False, ("cores",))
    assert f"networks and fits are counted as on this machine's cores, not on {cores}" in plan_capacity(rates).remarks()
    assert min(rates.decode_s, rates.view_s, rates.forward_s, rates.row_s) > 0
    assert rates.driver_s > RAY_S
    assert rates.look_rate > 0
    found = extract(data, tmp_path / "cache.h5", device="cpu", **OPTIONS).cache
    row = 1024 * 2 * 3 + 2 + 4 + REASON_BYTES + 32 + 1 + 8  # three views; done, crc32, skipped, hash, split, label
    assert rates.cache_bytes == pytest.approx(row, abs=100)  # its name, too
    assert rates.cache_bytes * 24 == pytest.approx(found.size_bytes, abs=1e5)


def test_memory_is_what_reading_a_list_takes(data: Path, tmp_path: Path) -> None:
    rates = measure_rates(data, given=dict.fromkeys(("look_rate", "forward_s", "driver_s", "row_s"), 1.0), **OPTIONS)
    n = 20_000
    splits = ["val", "train", "train", "train", "train"]
    rows = [f"https://host/{row:09d},{'ab'[row % 2]},{splits[row % 5]},{os.urandom(32).hex()}" for row in range(n)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split,sha256", *rows]))
    tracemalloc.start()
    read_manifest(tmp_path / "list.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rates.memory_bytes == pytest.approx(peak / n, rel=0.15)


def test_tars_are_looked_at_as_fast_as_their_bytes_are_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for path in sorted(data.glob("train/*/*.png")):
            tar.add(path, str(path.relative_to(data)))
    manifest = read_manifest(str(tmp_path / "train-000.tar"), allow_leak=True)
    read: list[str] = []
    monkeypatch.setattr(manifest.source, "read", lambda name: read.append(name) or b"")
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("featcache.analysis.planning.rates.time.perf_counter", lambda: next(clock))
    seen = _Seen(np.arange(8), 500.0, 0.0, 0.0, np.zeros((1, 1, 1, 3), np.uint8))
    assert _look_rate(manifest, seen) == 8 * 500 / 2
    assert sorted(read) == sorted(manifest.samples.ids[:8])


def test_one_image_that_is_not_there_does_not_end_it(data: Path, tmp_path: Path) -> None:
    paths = sorted(data.rglob("train/*/*.png"))
    rows = [f"{path},{path.parent.name}" for path in paths]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, f"file://{tmp_path}/none.png,a"]))
    rates = measure_rates(tmp_path / "list.csv", given=dict.fromkeys(("forward_s", "row_s"), 1.0), **OPTIONS)
    assert rates.image_bytes == pytest.approx(np.mean([os.path.getsize(path) for path in paths]))


def test_what_is_given_is_not_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_look_rate", "_forward_s", "_write_s", "_row_s"):
        monkeypatch.setattr(f"featcache.analysis.planning.rates.{name}", lambda *_: pytest.fail("measured"))
    said = {"look_rate": 1e8, "forward_s": 1e-3, "driver_s": 1e-4, "row_s": 1e-6, "read_rate": 1e7}
    told: list[tuple[str, int, int]] = []
    rates = measure_rates(data, given=said, progress=lambda *now: told.append(now), **OPTIONS)
    assert {name: getattr(rates, name) for name in said} == said
    assert (rates.on_gpu, rates.given) == (True, tuple(said))
    assert [done for what, done, _ in told if what == "measure"] == [0, 1, 2, 3, 4]


def test_images_that_cannot_be_read_are_left_out_and_none_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", {"train/a": 3, "train/b": 3})
    given_ = dict.fromkeys(("look_rate", "forward_s", "driver_s", "row_s"), 1.0)
    broken = sorted(folder.rglob("*.png"))
    broken[0].write_bytes(b"no image, and longer than others" * 1000)
    size = np.mean([os.path.getsize(path) for path in broken[1:]])
    assert measure_rates(folder, given=given_, **OPTIONS).image_bytes == pytest.approx(size)
    for number, path in enumerate(broken):
        path.write_bytes(b"no image %d" % number)
    with pytest.raises(EmptyFolderError, match=r"none of 6 images of .* could be read: "):
        measure_rates(folder, given=given_, **OPTIONS)


def test_the_plan_as_json_says_all(data: Path) -> None:
    plan = plan_capacity(CPU, [10**7], [2], prices=Prices(worker_hour=1.0))
    told = plan.to_dict()
    assert isinstance(plan, CapacityPlan)
    assert told["rates"]["worker_s"] == CPU.worker_s
    assert told["scenarios"][0]["total_s"] == plan.scenarios[0].total_s
    assert told["prices"] == {"worker_hour": 1.0, "storage_gb_month": None, "thousand_reads": None}
    assert told["passes"] == 150
