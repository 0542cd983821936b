"""A network of one's own, and a value range, in the commands around extract: benchmark, plan and try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import as_json, done, refused, write_folder
from featcache.analysis.benchmark.compare import benchmark
from featcache.analysis.planning.rates import measure_rates
from featcache.cache.feature_cache import FeatureCache
from featcache.core.model_card import ModelCard
from featcache.errors import BackboneError, RunError
from featcache.reports.try_out import try_out
from outcomes import fake_processes, in_this_process
from toys import random_image

FACTORY = """
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, 2)

    def forward(self, x):
        return self.layer(x).relu().mean((2, 3))


def build():
    torch.manual_seed(4)
    return Own()


def drawn():
    torch.seed()
    return Own()
"""
PROVIDED = dict.fromkeys(("look_rate", "forward_s", "driver_s", "row_s"), 1.0)
SMALL = ("--image-size", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("own") / "photos")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the module of the factories."""
    (tmp_path / "ownnet4.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_benchmark_runs_a_network_of_ones_own_in_its_processes(data: Path, here: Path) -> None:
    told = as_json("benchmark", data, "-o", "out", "--routes", "cached,frozen", "--backbone", "ownnet4:build",
                   "--views", 1, "--epochs", 1, "--batch-size", 5, *SMALL)  # fmt: skip
    assert told["settings"]["backbone"] == "ownnet4:build"
    spec = FeatureCache.open(here / "out/work/cached-0/cache.h5").spec
    card = ModelCard.read(here / "out/work/frozen-0/run")
    assert spec.layers == ("penultimate", "layer", "layer:max", "layer:std", "layer:grid")
    assert (spec.backbone, card.spec.backbone) == ("ownnet4:build", "ownnet4:build")
    assert spec.weights_sha256 == card.spec.weights_sha256
    assert "ownnet4:build" in (here / "out/report.html").read_text()


def test_a_factory_that_draws_other_weights_each_time_is_refused(data: Path, here: Path) -> None:
    text = refused("benchmark", data, "-o", "out", "--routes", "cached", "--backbone", "ownnet4:drawn", *SMALL)
    assert "ownnet4:drawn returns other weights in each call" in text
    assert not (here / "out").exists()


def test_a_network_of_ones_own_is_not_trained_from_scratch(
    data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(here)
    orders = fake_processes(monkeypatch)
    result = benchmark(data, here / "out", backbone="ownnet4:build", image_size=16, device="cpu", views=1)
    assert result.settings["routes"] == ["cached", "frozen", "lpft", "finetune"]
    assert {order["backbone"] for order in orders if "backbone" in order} == {"ownnet4:build"}
    with pytest.raises(RunError, match="ownnet4:build returns a network with its own weights: drop the route scratch"):
        benchmark(data, here / "other", backbone="ownnet4:build", routes=["scratch"])
    with pytest.raises(RunError, match="ownnet4:build returns a network with its own weights: drop --weights"):
        benchmark(data, here / "other", backbone="ownnet4:build", weights="none")
    with pytest.raises(BackboneError, match="the factory nomodule:build failed"):
        benchmark(data, here / "other", backbone="nomodule:build")


def test_a_benchmark_takes_a_value_range_for_all_its_routes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = fake_processes(monkeypatch)
    benchmark(data, tmp_path / "out", value_range=(0, 4095), views=1)
    of_images = [order for order in orders if order["task"] != "fit-head"]
    assert len(of_images) == 5
    assert {tuple(order["value_range"]) for order in of_images} == {(0, 4095)}
    assert benchmark(data, tmp_path / "out", value_range=(0, 4095), views=1)  # goes on
    with pytest.raises(RunError, match=r"value_range=\[0, 4095\], you asked for the default"):
        benchmark(data, tmp_path / "out", views=1)


def test_a_range_arrives_in_the_routes_and_in_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    data = write_deep(tmp_path / "deep")
    as_json("benchmark", data, "-o", tmp_path / "out", "--routes", "cached", "--views", 0, "--backbone",
            "mobilenet_v3_small", "--weights", "none", "--value-range", "0:2000", *SMALL)  # fmt: skip
    assert FeatureCache.open(tmp_path / "out/work/cached-0/cache.h5").spec.view.value_range == (0, 2000)
    assert "--value-range 0:2000" in (tmp_path / "out/report.html").read_text()


def write_deep(root: Path) -> Path:
    """12 bits of 16, of two classes."""
    for place, folder in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (root / folder).mkdir(parents=True)
        for number in range(4):
            values = np.asarray(random_image(10 * place + number).convert("L")).astype(np.uint16) * 16
            Image.fromarray(values + 40 * ("b" in folder)).save(root / folder / f"{number}.png")
    return root


def test_the_command_that_repeats_an_extraction_has_its_range(tmp_path: Path) -> None:
    data = write_deep(tmp_path / "deep")
    told = as_json("try", data, "-o", tmp_path / "out", "--views", 0, "--backbone", "mobilenet_v3_small", "--weights",
                   "none", "--value-range", "-16:2000", *SMALL)  # fmt: skip
    assert told["extract"]["value_range"] == [-16, 2000]
    assert "--value-range -16:2000" in (tmp_path / "out/report.html").read_text()


def test_try_takes_a_network_of_ones_own_and_says_that_it_is_wanted_again(data: Path, here: Path) -> None:
    text = done("try", data, "-o", "out", "--views", 0, "--backbone", "ownnet4:build", *SMALL)
    assert FeatureCache.open(here / "out/cache.h5").spec.layers == (
        "penultimate",
        "layer",
        "layer:max",
        "layer:std",
        "layer:grid",
    )
    assert FeatureCache.open(here / "out/cache.h5").spec.backbone == "ownnet4:build"
    lines = [line for line in text.splitlines() if line.startswith("  featcache")]
    assert [" --backbone ownnet4:build" in line for line in lines] == [True] * 5
    assert "featcache predict out/head PHOTO --backbone ownnet4:build" in text


def test_try_names_the_network_to_benchmark(data: Path, tmp_path: Path) -> None:
    trial = try_out(data, tmp_path / "out", backbone="mobilenet_v3_small", weights="none", views=0, image_size=16)
    lines = [line for line in str(trial).splitlines() if line.startswith("  featcache")]
    assert [" --backbone mobilenet_v3_small" in line for line in lines] == [False, False, False, True, True]
    assert (
        f"featcache benchmark {data} -o {tmp_path / 'out'}-benchmark --backbone mobilenet_v3_small --weights none "
        "--image-size 16  # "
    ) in lines[-1]


def test_a_plan_takes_a_network_of_ones_own(data: Path, here: Path) -> None:
    told = as_json("plan", data, "--backbone", "ownnet4:build", "--page", "plan.html", "--hash-rate", 1,
                   "--solver-rate", 1, "--write-rate", 1, *SMALL)  # fmt: skip
    assert told["rates"]["forward_s"] > 0
    assert 6 * 2 * 4 < told["rates"]["cache_bytes"] < 1000  # six features
    assert "photos and the network ownnet4:build" in (here / "plan.html").read_text()
    assert "drop --weights" in refused("plan", data, "--backbone", "ownnet4:build", "--weights", "none", status=2)


def test_rates_are_of_the_rows_and_the_range_that_extract_takes(tmp_path: Path) -> None:
    data, notes = write_deep(tmp_path / "deep"), list[str]()
    paths = sorted(data.rglob("train/*/*.png"))
    rows = [f"{path},{path.parent.name},x" for path in paths]
    (tmp_path / "list.csv").write_text("\n".join(["path,kind,colour", *rows, "none.png,a,x"]))
    paths[0].write_bytes(b"no image")
    options: dict[str, Any] = {
        "backbone": "mobilenet_v3_small",
        "weights": "none",
        "image_size": 16,
        "provided": PROVIDED,
    }
    measure_rates(
        tmp_path / "list.csv", label_column="kind", skip_missing=True, value_range=(0, 900), on_note=notes.append,
        **options,
    )  # fmt: skip
    assert "label column: kind" in notes[0]
    assert (
        notes[1]
        == "images of more than 8 bits a channel: values 0:900 become black to white (--value-range sets others)"
    )
    assert notes[2].startswith("2 of the 9 measured images cannot be read, for example ")
    measure_rates(data, on_note=notes.append, **options)
    assert "values 0:4095 become black to white" in notes[4]


def test_floats_can_be_planned_for(tmp_path: Path) -> None:
    data = tmp_path / "floats"
    for folder in ("a", "b"):
        (data / folder).mkdir(parents=True)
        for number in range(3):
            values = np.random.default_rng(number).random((9, 9)).astype(np.float32)
            Image.fromarray(values).save(data / folder / f"{number}.tif")

    options = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--hash-rate", 1, "--forward-rate", 1)
    told = as_json("plan", data, "--value-range", "0:1", "--solver-rate", 1, "--write-rate", 1, *options)
    assert told["rates"]["decode_s"] > 0
