"""featcache plan: options reach the library, and a page is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import featcache
from commands import as_json, done, featcache_cli, write_folder
from featcache.analysis.planning.capacity import CapacityPlan, Prices, Rates, plan_capacity


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `plan` was called with; it measures nothing."""
    arguments: dict[str, Any] = {}

    def plan(data: str, **options: Any) -> CapacityPlan:
        arguments.update(options, data=data)
        rates = Rates(1e5, 5, 0.004, 0.001, 4, 0.002, False, 1e9, 1e-4, 1e-6, 13_000, 150)
        return plan_capacity(rates, options.get("samples", (10**7, 10**9)), options["workers"])

    monkeypatch.setattr(featcache, "plan", plan, raising=False)
    return arguments


def test_every_option_reaches_the_library(got: dict[str, Any]) -> None:
    done("plan", "photos", "--samples", "250k,1B,2", "--workers", "8,1", "--cores", 3, "--backbone", "resnet18",
         "--weights", "none", "--views", 2, "--val-views", 1, "--augment", "crop", "--image-size", 96, "--layers",
         "layer3,penultimate", "--device", "cpu", "--precision", "fp32", "--engine", "pytorch", "--hashed", "--passes",
         70, "--forward-rate", 500, "--read-rate", 200, "--hash-rate", 1000, "--write-rate", 10000, "--solver-rate",
         1e6, "--worker-hour", 2, "--storage-gb-month", 0.02, "--thousand-reads", 0.4, "--label-column",
         "kind", "--skip-missing", "--value-range", "0:4095", "--text-column", "body", "--max-length", 64, "--prefix",
         "query: ")  # fmt: skip
    del got["progress"]
    assert callable(got.pop("on_note"))
    assert got.pop("provided") == pytest.approx(
        {
            "forward_s": 0.002,
            "read_rate": 2e8,
            "hash_bytes_per_s": 1e9,
            "write_s_per_sample": 1e-4,
            "solver_s_per_row": 1e-6,
        }
    )
    assert got == {"data": "photos", "backbone": "resnet18", "weights": "none", "views": 2, "val_views": 1,
                   "augment": "crop", "image_size": 96, "layers": "layer3,penultimate", "device": "cpu",
                   "precision": "fp32", "engine": "pytorch", "cores": 3, "label_column": "kind",
                   "skip_missing": True, "value_range": (0, 4095), "interpolation": None,
                   "decode_side": None, "text_column": "body", "max_length": 64, "prefix": "query: ",
                   "samples": [2, 250_000, 10**9], "workers": [1, 8], "hashed": True, "passes": 70,
                   "prices": Prices(2.0, 0.02, 0.4)}  # fmt: skip


def test_it_plans_for_ten_million_and_a_billion_images(got: dict[str, Any]) -> None:
    values = as_json("plan", "photos")
    assert [(scenario["samples"], scenario["workers"]) for scenario in values["scenarios"]] == [
        (n, w) for n in (10**7, 10**9) for w in (1, 8, 64)
    ]
    assert got["provided"] == {}


def test_the_former_name_of_the_numbers_works_and_names_the_new_one(got: dict[str, Any]) -> None:
    result = featcache_cli("plan", "photos", "--images", "2k,1")
    assert (result.exit_code, got["samples"]) == (0, [1, 2000])
    assert re.search(r"deprecated\. ?use --samples", " ".join(result.stderr.split()))
    done("plan", "photos", "--images", 3, "--samples", 4)
    assert got["samples"] == [4]
    assert "--images" not in done("plan", "--help")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("--look-rate", "--hash-rate", "hash_bytes_per_s"),
        ("--driver-rate", "--write-rate", "write_s_per_sample"),
        ("--row-rate", "--solver-rate", "solver_s_per_row"),
    ],
)
def test_former_names_of_rates_work_and_name_the_new_ones(old: str, new: str, field: str, got: dict[str, Any]) -> None:
    done("plan", "photos", new, 20)
    provided = got["provided"]
    result = featcache_cli("plan", "photos", old, 20)
    assert (result.exit_code, got["provided"]) == (0, provided)
    assert set(provided) == {field}
    assert re.search(rf"deprecated\. ?use {new}", " ".join(result.stderr.split()))
    assert old not in done("plan", "--help")
    done("plan", "photos", new, 30, old, 20)
    assert got["provided"] != provided


@pytest.mark.parametrize("text", ["", "many", "1.5", "0", "-3", "1M,", "1e20"])
def test_what_is_no_number_of_samples_is_refused(text: str, got: dict[str, Any]) -> None:
    result = featcache_cli("plan", "photos", "--samples", text)
    assert result.exit_code == 2
    assert "is not a number such as 64, 250k, 10M or 1B" in result.stderr


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "1e-320", "1e308", "-1"])
@pytest.mark.parametrize("option", ["--forward-rate", "--write-rate", "--read-rate", "--worker-hour"])
def test_what_is_no_rate_and_no_price_is_refused(option: str, text: str, got: dict[str, Any]) -> None:
    result = featcache_cli("plan", "photos", option, text)
    if (option, text) == ("--worker-hour", "1e-320"):
        assert result.exit_code == 0
        return
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


def test_a_page_is_written_of_a_real_measurement(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", {"train/a": 4, "train/b": 4})
    page = tmp_path / "plan.html"
    text = done("plan", data, "--backbone", "mobilenet_v3_small", "--weights", "none", "--image-size", 32, "--views",
                0, "--device", "cpu", "--page", page)  # fmt: skip
    assert text.splitlines()[0].startswith("images")
    assert "with images of data and the network mobilenet_v3_small" in page.read_text(encoding="utf-8")
    refused = featcache_cli("plan", data, "--page", tmp_path / "nowhere" / "plan.html")
    assert refused.exit_code == 2
    assert "is not a folder" in refused.stderr
