"""The plan follows its formula, and its rates are those of the images that they are measured with."""

from __future__ import annotations

import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import write_folder
from featcache._utils.environment import usable_cores
from featcache.analysis.planning.capacity import RENAMED_RATES, CapacityPlan, Prices, Rates, plan_capacity
from featcache.analysis.planning.plan import plan
from featcache.analysis.planning.rates import (
    RAY_S,
    _forward_s,
    _hash_bytes_per_s,
    measure_rates,
)
from featcache.cache.format.layout import REASON_BYTES
from featcache.core.options import ExtractArguments, with_defaults
from featcache.data.manifest import read_manifest
from featcache.errors import EmptyFolderError
from featcache.extraction.extract import extract
from featcache.extraction.input_costs import InputCosts
from featcache.extraction.request import ExtractionRequest
from featcache.reports.pages.capacity import write_capacity_page
from featcache.reports.plots import plot_capacity
from featcache.vision.augment import make_views
from featcache.vision.device_views import support
from pagereader import read_page
from toys import toy_backbone

CPU = Rates(
    sample_bytes=100_000,
    views=5.0,
    decode_s=0.004,
    view_s=0.001,
    cores=4,
    forward_s=0.002,
    on_gpu=False,
    hash_bytes_per_s=1e9,
    write_s_per_sample=1e-4,
    solver_s_per_row=1e-6,
    cache_bytes=13_000,
    memory_bytes=150,
)
GPU = replace(CPU, on_gpu=True, forward_s=0.0001)
FAST = replace(GPU, hash_bytes_per_s=1e12, solver_s_per_row=1e-12)  # all but the extraction
OPTIONS: dict[str, Any] = {
    "backbone": "mobilenet_v3_small",
    "weights": "none",
    "views": 2,
    "image_size": 32,
    "layers": ("last",),
}


def test_a_cpu_decodes_and_computes_in_turn_and_a_gpu_beside() -> None:
    assert CPU.stages == {"cores and network": pytest.approx((0.004 + 0.005) / 4 + 0.01)}
    assert GPU.stages == {"cores": pytest.approx(0.00225), "network": pytest.approx(0.0005)}
    assert GPU.worker_s == pytest.approx(0.00225)
    assert GPU.cores_needed == pytest.approx(18)
    assert GPU.saturation_workers == pytest.approx(22.5)


def test_each_phase_is_as_the_formula_says() -> None:
    (scenario,) = plan_capacity(CPU, [1_000_000], [10]).scenarios
    assert scenario.seconds == {"hash": pytest.approx(100), "extract": pytest.approx(1225), "fit": pytest.approx(75)}
    assert scenario.total_s == pytest.approx(1400)
    assert scenario.limit == "extract: cores and network"
    assert (scenario.cache_bytes, scenario.memory_bytes) == (13e9, 150e6)
    assert scenario.cost == {}
    (hashed,) = plan_capacity(CPU, [1_000_000], [10], hashed=True, passes=300).scenarios
    assert hashed.seconds == {"hash": 0, "extract": scenario.seconds["extract"], "fit": 2 * scenario.seconds["fit"]}


@pytest.mark.parametrize(
    ("rates", "workers", "limit"),
    [
        (FAST, 1, "extract: cores"),
        (replace(FAST, cores=64), 1, "extract: network"),
        (replace(FAST, cores=64, read_rate=1e7), 1, "extract: read"),
        (FAST, 23, "extract: driver"),
        (replace(FAST, hash_bytes_per_s=1e7), 23, "hash"),
        (replace(FAST, read_rate=1e7), 100, "hash"),  # what no worker reads faster, this machine does not
        (replace(FAST, solver_s_per_row=1e-3), 1, "fit"),
    ],
)
def test_what_holds_it_up_is_named(rates: Rates, workers: int, limit: str) -> None:
    assert plan_capacity(rates, [1_000_000], [workers], hashed=limit != "hash").scenarios[0].limit == limit


def test_prices_count_what_they_are_for() -> None:
    prices = Prices(worker_hour=3.6, storage_gb_month=0.02, thousand_reads=0.4)
    (scenario,) = plan_capacity(CPU, [1_000_000], [10], prices=prices).scenarios
    assert scenario.cost == {
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
    rates = replace(CPU, decode_s=decode, view_s=view, forward_s=forward, write_s_per_sample=driver,
                    solver_s_per_row=row,
                    on_gpu=on_gpu, read_rate=read)  # fmt: skip
    capacity = plan_capacity(rates, [images], [workers])
    base, more, twice = (
        capacity.scenarios[0],
        capacity.at([images], [workers + 1])[0],
        capacity.at([2 * images], [workers])[0],
    )
    assert more.total_s <= base.total_s
    for phase, seconds in base.seconds.items():
        assert twice.seconds[phase] == pytest.approx(2 * seconds)
    assert base.seconds["extract"] >= images * driver
    limited = workers > rates.saturation_workers
    assert (more.seconds["extract"] == base.seconds["extract"]) or not limited


def test_the_table_and_the_remarks_are_for_people() -> None:
    text = str(plan_capacity(GPU, [9_100_000], [1, 64], prices=Prices(worker_hour=2.0)))
    header, first, second, *remarks = text.splitlines()
    assert header.split("  ")[0] == "images"
    assert first.split() == ["9,100,000", "1", "15", "minutes", "5.7", "hours", "114", "minutes", "7.8", "hours",
                             "extract:", "cores", "118.3", "GB", "1.4", "GB", "15.17"]  # fmt: skip
    assert " hash  " in second
    assert remarks == [
        "- Workers beyond 22 add no speed: one machine writes the file",
        "- A worker needs 18 cores to keep its GPU busy; it has 4",
        "- The fit is calculated for this machine's CPU: give the GPU's rate with --solver-rate",
        "- One machine hashes all files: a list with a column sha256 avoids this (--hashed)",
        "- The transfer from the storage to the workers is not included: give --read-rate",
        "- Not included: reading the list, starting machines, repeated reads, heads that are not linear",
    ]


def test_the_page_has_the_table_the_rates_the_formula_and_the_picture(tmp_path: Path) -> None:
    capacity = plan_capacity(replace(GPU, provided=("forward_s",)), [10**7, 10**9], [1, 8])
    page = read_page(write_capacity_page(tmp_path / "plan.html", capacity, tmp_path / "photos", "resnet18"))
    plan_, rates, formula, machine = page.sections.values()
    assert plan_.tables == [[capacity.header(), *capacity.rows()]]
    assert plan_.notes == capacity.remarks()
    assert (len(plan_.sources), plan_.captions) == (1, ["Hours against workers"])
    assert rates.lines == ["Measured with images of photos and the network resnet18"]
    (table,) = rates.tables
    assert ["forward_s", "10,000 views/s on a GPU", "provided"] in table
    assert [row[2] for row in table].count("provided") == 1
    assert ["read_rate", "not included", ""] in table
    assert "hash      N * sample_bytes / hash_bytes_per_s" in formula.code
    assert (
        formula.notes[0] == "The fit of a head takes 150 passes over the rows. The hashes of the images are computed."
    )
    assert machine.tables[0][0] == ["field", "value"]


def test_the_picture_shows_each_number_of_images_and_where_the_driver_is_busy() -> None:
    axes = plot_capacity(plan_capacity(GPU, [10**7, 10**9], [1, 64])).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert {"10,000,000 images", "1,000,000,000 images", "more add no speed"} <= set(lines)
    np.testing.assert_allclose(lines["more add no speed"].get_xdata(), 22.5)
    capacity = plan_capacity(GPU, [10**7], [1, 64])
    np.testing.assert_allclose(
        lines["10,000,000 images"].get_ydata(), [scenario.total_s / 3600 for scenario in capacity.scenarios]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("rates") / "data", {"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})


def test_rates_are_those_of_the_images(data: Path, tmp_path: Path) -> None:
    cores = usable_cores() + 1
    rates = measure_rates(data, cores=cores, device="cpu", **OPTIONS)
    sizes = [os.path.getsize(path) for path in data.rglob("*.png")]
    assert rates.sample_bytes == pytest.approx(np.mean(sizes))
    assert rates.views == pytest.approx((16 * 3 + 8) / 24)
    assert (rates.cores, rates.on_gpu, rates.provided) == (cores, False, ("cores",))
    assert (
        f"The network and the fit are calculated for this machine's cores, not for {cores}"
        in plan_capacity(rates).remarks()
    )
    assert min(rates.decode_s, rates.view_s, rates.forward_s, rates.solver_s_per_row) > 0
    assert rates.write_s_per_sample > RAY_S
    assert rates.hash_bytes_per_s > 0
    cache = extract(data, tmp_path / "cache.h5", device="cpu", **OPTIONS).cache
    row = 1024 * 2 * 3 + 2 + 4 + REASON_BYTES + 32 + 1 + 8  # three views; done, crc32, skipped, hash, split, label
    assert rates.cache_bytes == pytest.approx(row, abs=100)  # its name, too
    assert rates.cache_bytes * 24 == pytest.approx(cache.size_bytes, abs=1e5)


def test_the_network_is_warm_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that computes 10,000 views/s, opens in 5 s, and takes a pause of 3 s in between."""
    clock, pauses = [0.0], {0: 5.0, 5: 3.0}
    calls: list[int] = []

    def submit(pixels: np.ndarray[Any, Any]) -> Callable[[], list[Any]]:
        assert len(pixels) == 256
        calls.append(len(calls))
        clock[0] += 0.0256 + pauses.get(calls[-1], 0.0)
        return list

    monkeypatch.setattr("featcache.analysis.planning.rates.time.perf_counter", lambda: clock[0])
    network = SimpleNamespace(batch_size=256, max_in_flight=256, submit=submit, select_engine=lambda *_: None)
    stub = SimpleNamespace(backbone=network, input_size=8, runtime={"engine": "auto"})
    seconds = _forward_s(stub, np.zeros((5, 8, 8, 3), np.uint8))  # type: ignore[arg-type]
    assert seconds == pytest.approx(1e-4)
    assert len(calls) >= 5


def test_memory_is_what_reading_a_list_takes(data: Path, tmp_path: Path) -> None:
    rates = measure_rates(
        data,
        provided=dict.fromkeys(("hash_bytes_per_s", "forward_s", "write_s_per_sample", "solver_s_per_row"), 1.0),
        **OPTIONS,
    )
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
    costs = InputCosts(np.arange(8), 500.0, 0.0, 0.0, np.zeros((1, 1, 1, 3), np.uint8))
    assert _hash_bytes_per_s(manifest, costs) == 8 * 500 / 2
    assert sorted(read) == sorted(manifest.samples.ids[:8])


def test_one_image_that_is_not_there_does_not_end_it(data: Path, tmp_path: Path) -> None:
    paths = sorted(data.rglob("train/*/*.png"))
    rows = [f"{path},{path.parent.name}" for path in paths]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows, f"file://{tmp_path}/none.png,a"]))
    rates = measure_rates(
        tmp_path / "list.csv", provided=dict.fromkeys(("forward_s", "solver_s_per_row"), 1.0), **OPTIONS
    )
    assert rates.sample_bytes == pytest.approx(np.mean([os.path.getsize(path) for path in paths]))


def test_what_is_given_is_not_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_hash_bytes_per_s", "_forward_s", "_write_s", "_solver_s_per_row"):
        monkeypatch.setattr(f"featcache.analysis.planning.rates.{name}", lambda *_: pytest.fail("measured"))
    fields = {
        "hash_bytes_per_s": 1e8,
        "forward_s": 1e-3,
        "write_s_per_sample": 1e-4,
        "solver_s_per_row": 1e-6,
        "read_rate": 1e7,
    }
    steps: list[tuple[str, int, int]] = []
    rates = measure_rates(data, provided=fields, progress=lambda *step: steps.append(step), **OPTIONS)
    assert {name: getattr(rates, name) for name in fields} == fields
    assert (rates.on_gpu, rates.provided) == (True, tuple(fields))
    assert [done for what, done, _ in steps if what == "measure"] == [0, 1, 2, 3, 4]


def test_images_that_cannot_be_read_are_left_out_and_none_is_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", {"train/a": 3, "train/b": 3})
    fixed = dict.fromkeys(("hash_bytes_per_s", "forward_s", "write_s_per_sample", "solver_s_per_row"), 1.0)
    broken = sorted(folder.rglob("*.png"))
    broken[0].write_bytes(b"no image, and longer than others" * 1000)
    size = np.mean([os.path.getsize(path) for path in broken[1:]])
    assert measure_rates(folder, provided=fixed, **OPTIONS).sample_bytes == pytest.approx(size)
    for number, path in enumerate(broken):
        path.write_bytes(b"no image %d" % number)
    with pytest.raises(EmptyFolderError, match=r"none of 6 images of .* can be read: "):
        measure_rates(folder, provided=fixed, **OPTIONS)


def test_the_plan_as_json_says_all(data: Path) -> None:
    capacity = plan_capacity(CPU, [10**7], [2], prices=Prices(worker_hour=1.0))
    values = capacity.to_dict()
    assert isinstance(capacity, CapacityPlan)
    assert values["rates"]["worker_s"] == CPU.worker_s
    assert values["scenarios"][0]["total_s"] == capacity.scenarios[0].total_s
    assert values["prices"] == {"worker_hour": 1.0, "storage_gb_month": None, "thousand_reads": None}
    assert values["passes"] == 150


def test_old_names_of_rates_work_and_warn(data: Path) -> None:
    values = dict(vars(CPU))
    for old, new in RENAMED_RATES.items():
        others = {name: value for name, value in values.items() if name != new}
        with pytest.warns(DeprecationWarning, match=rf"^Rates\.{old} is deprecated: use Rates\.{new}$"):
            rates = Rates(**others, **{old: values[new]})
        with pytest.warns(DeprecationWarning, match=rf"^Rates\.{old} is deprecated: use Rates\.{new}$"):
            assert getattr(rates, old) == getattr(rates, new) == values[new]
    fields = {"look_rate": 2e8, "driver_s": 1e-4, "row_s": 1e-6}
    assert replace(rates, cores=3).cores == 3
    measured = measure_rates(data, provided={**fields, "forward_s": 1.0}, **OPTIONS)
    assert measured.hash_bytes_per_s == 2e8
    assert measured.provided == ("hash_bytes_per_s", "write_s_per_sample", "solver_s_per_row", "forward_s")
    with pytest.warns(DeprecationWarning, match=r"^measure_rates\(given=...\) is deprecated") as caught:
        assert measure_rates(data, given={**fields, "forward_s": 1.0}, **OPTIONS).provided == measured.provided
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]
    with pytest.warns(DeprecationWarning, match=r"^Rates\.given is deprecated: use Rates\.provided$"):
        assert measured.given == measured.provided  # type: ignore[attr-defined]


def test_plan_measures_and_calculates_or_takes_rates(data: Path) -> None:
    options = {"samples": [1_000_000], "workers": [10], "hashed": True, "passes": 300, "prices": Prices(1.0)}
    assert plan(CPU, **options) == plan_capacity(CPU, **options)
    fixed = dict.fromkeys(("hash_bytes_per_s", "forward_s", "write_s_per_sample", "solver_s_per_row"), 1.0)
    measured = plan(data, provided=fixed, **options, **OPTIONS)
    assert (measured.rates.provided, measured.samples, measured.hashed) == (tuple(fixed), (1_000_000,), True)
    with pytest.warns(DeprecationWarning, match=r"^plan\(images=...\) is deprecated: use plan\(samples=...\)$"):
        former = plan(CPU, images=[5], workers=[10])
    assert former == plan(CPU, samples=[5], workers=[10])
    with pytest.warns(DeprecationWarning, match=r"^CapacityPlan\.images is deprecated"):
        assert former.images == (5,)  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match=r"^Scenario\.images is deprecated"):
        assert former.scenarios[0].images == 5  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"^plan was called with Rates and with provided, views, which only apply when"):
        plan(CPU, provided=fixed, views=2)


@pytest.mark.parametrize(("augment", "on_device"), [("gentle", True), ("trivial", False)])
def test_cores_do_not_make_the_views_that_a_gpu_makes(
    augment: str, on_device: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        made.append(time.perf_counter())
        return make_views(*arguments)

    monkeypatch.setattr("featcache.vision.augment.make_views", slow)
    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    data = write_folder(tmp_path / "data", {"train/ants": 1, "train/bees": 1, "val/ants": 1})
    options = with_defaults(ExtractArguments, {"views": 1, "augment": augment})
    plan = ExtractionRequest(toy_backbone(), {**options, "joins_columns": False}).load()
    measured = plan.measure_inputs(read_manifest(data), range(3), range(2))
    assert len(made) == 3
    assert measured.inputs.shape == (6, 8, 8, 3)
    assert (measured.view_s < 0.05) == on_device
