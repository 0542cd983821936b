from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torchvision

import featcache
from commands import SMALL, as_json, done, featcache_cli, refused, write_folder
from featcache.backbones.load import load_backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.vision.augment import make_views
from featcache.vision.decode import decode


def test_the_cache_holds_what_the_network_says_of_the_views(data: Path, real_cache: Path) -> None:
    cache = FeatureCache.open(real_cache)
    backbone = load_backbone("mobilenet_v3_small", weights="none", device="cpu", precision="fp32")
    assert cache.spec.weights_sha256 == backbone.weights_sha256
    assert (cache.spec.view.image_size, cache.spec.views, cache.spec.dtype) == (32, 2, "float16")
    train = cache.features("train")
    assert train.x.shape == (13, 3, backbone.dim)
    row = 5
    sha256 = train.samples.sha256[row].tobytes()
    views = make_views(decode((data / train.samples.ids[row]).read_bytes()), cache.spec.view, sha256, [0, 1, 2])
    np.testing.assert_allclose(train.x[row], backbone.embed(views), rtol=2e-3, atol=1e-3)


def test_the_summary_is_on_stdout_and_progress_on_stderr(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "c.h5"
    result = featcache_cli("extract", data, "-o", out, "--views", 1, *SMALL)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{out}: 18 images, 31 views, ")
    assert lines[1].startswith("extracted 18 images (31 views) in ")
    assert len(lines) == 2
    assert "photos: 2 classes; train 13 (ants 7, bees 6), val 5 (ants 3, bees 2)" in result.stderr
    again = done("extract", data, "-o", out, "--views", 1, *SMALL).splitlines()
    assert again[1:] == ["nothing to extract: the cache was complete"]


def test_json_is_one_object(data: Path, tmp_path: Path) -> None:
    found = as_json("extract", data, "-o", tmp_path / "c.h5", "--views", 0, *SMALL)
    assert (found["images"], found["extracted"], found["shown"]) == (18, 18, 18)
    assert found["cache"] == str(tmp_path / "c.h5")
    assert found["spec_digest"] == FeatureCache.open(tmp_path / "c.h5").spec.digest()
    assert (found["skipped"], found["ignored"]) == ([], {})


def test_unreadable_images_and_other_files_are_in_the_summary(data: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    (photos / "train/ants/000.png").write_bytes(b"")
    (photos / "val/bees/001.png").write_bytes(b"no picture")
    (photos / "train/ants/notes.txt").write_text("mine")
    text = done("extract", photos, "-o", tmp_path / "c.h5", "--views", 1, *SMALL)
    assert text.splitlines()[1].startswith("extracted 16 images (28 views) in ")
    assert text.splitlines()[2:] == [
        "ignored 1 file: not an image (.txt)",
        "skipped train/ants/000.png: the file is empty (0 bytes)",
        "skipped val/bees/001.png: not an image that Pillow can identify",
    ]
    found = as_json("extract", photos, "-o", tmp_path / "c.h5", "--views", 1, *SMALL)
    assert [entry["path"] for entry in found["skipped"]] == ["train/ants/000.png", "val/bees/001.png"]


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", {"train/ants": 1, "train/bees": 1, "val/ants": 1})
    for path in photos.rglob("*.png"):
        path.write_bytes(b"")
    message = refused("extract", photos, "-o", tmp_path / "c.h5", *SMALL)
    assert message == (
        f"none of the 3 images of {photos} could be read; train/ants/000.png: the file is empty (0 bytes)"
    )
    assert not (tmp_path / "c.h5").exists()


def test_another_spec_for_the_same_file_is_refused_naming_each_field(data: Path, real_cache: Path) -> None:
    message = refused(
        "extract", data, "-o", real_cache, "--views", 3, "--seed", 7, "--dtype", "float32", "--precision", "fp32",
        "--augment", "crop", *SMALL, "--image-size", 48)  # fmt: skip
    start = f"{real_cache} was made with "
    end = ". Extract again to another file, or ask for what the cache has."
    assert message.startswith(start)
    assert message.endswith(end)
    found = dict(field.split("=", 1) for field in message[len(start) : -len(end)].split("; "))
    weights = found.pop("weights_sha256")  # drawn with the seed
    assert ", you asked for " in weights
    assert found == {
        "views": "2, you asked for 3",
        "seed": "0, you asked for 7",
        "dtype": "float16, you asked for float32",
        "augment": "gentle, you asked for crop",
        "image_size": "32, you asked for 48",
        "resize_size": "37, you asked for 55",
    }


def test_other_images_for_the_same_file_are_refused(data: Path, real_cache: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(data, tmp_path / "photos"))
    (photos / "train/ants/000.png").unlink()
    message = refused("extract", photos, "-o", real_cache, "--views", 2, "--precision", "fp32", *SMALL)
    assert message == (
        f"{real_cache} was made from other samples: 1 removed (for example train/ants/000.png). "
        "Extract again to another file, or bring it up to date with "
        f"`featcache update {real_cache} {photos}`."
    )


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"train/ants": 2, "val/ants": 1},
            "only one class (ants) was found; a classifier needs two or more.",
        ),
        (
            {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/wasps": 1},
            "class 'wasps' is in val (val/wasps/000.png) but not in train. Train has ants, bees.",
        ),
        ({"val/ants": 2, "test/ants": 2}, "has test, val but no train folder with images."),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(counts: dict[str, int], message: str, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", counts)
    assert message in refused("extract", photos, "-o", tmp_path / "c.h5", *SMALL)


def test_an_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = ("-o", tmp_path / "c.h5")
    assert refused("extract", tmp_path / "empty", *out).startswith(f"{tmp_path / 'empty'} holds no images. Expected ")
    assert refused("extract", tmp_path / "gone", *out) == (
        f"{tmp_path / 'gone'} does not exist. Give a folder of class folders, or a CSV manifest."
    )


def test_a_csv_manifest_is_taken_and_its_mistakes_named(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{path},{path.parent.name}" for path in sorted((data / "train").rglob("*.png"))]
    table.write_text("\n".join(["path,label", *lines]))
    found = as_json("extract", table, "-o", tmp_path / "c.h5", "--views", 0, "--val-fraction", 0.4, *SMALL)
    assert found["extracted"] == 13
    assert len(FeatureCache.open(tmp_path / "c.h5").samples.rows("val")) == 3 + 2
    table.write_text("file,label\n")
    assert refused("extract", table, "-o", tmp_path / "d.h5") == (
        f"{table}: the first line must name the columns path,label[,split][,sha256]; found file,label. "
        "A table of texts has the columns text,label; another column of texts: --text-column NAME"
    )


def test_an_unknown_backbone_is_refused_with_near_names(data: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "c.h5", "--weights", "none")
    message = refused("extract", data, *out, "--backbone", "resnet19")
    assert message.startswith("there is no backbone 'resnet19'; close: resnet18, ")
    assert "Use efficientnet_lite0 (embedded), a torchvision model such as resnet18, or timm/<model>." in message
    assert refused("extract", data, *out, "--backbone", "timm/resnet18_x").startswith(
        "timm has no model 'resnet18_x'; close: "
    )
    message = refused("extract", data, *out, "--backbone", "mobilenet_v3_small", "--layers", "layer9")
    assert message == (
        "mobilenet_v3_small has no layer 'layer9'; its parts are features, avgpool, classifier. `--layers stages` "
        "selects the ends of its stages."
    )


def test_weights_that_are_not_to_be_had_name_the_ways_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    out = ("-o", tmp_path / "c.h5")
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    message = refused("extract", data, *out, "--backbone", "resnet18")
    assert message.startswith("the pretrained weights of resnet18 are not available: resnet18-f37072fd.pth is not in ")
    assert "no route to host" in message
    assert message.endswith("or use the embedded --backbone efficientnet_lite0, which needs no download.")
    monkeypatch.setattr(timm, "create_model", offline)
    message = refused("extract", data, *out, "--backbone", "timm/resnet18")
    assert message.startswith("the pretrained weights of timm/resnet18 are not available (")
    assert "pass --weights PATH" in message


def test_a_weights_file_that_is_none_is_refused(data: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "c.h5", "--backbone", "mobilenet_v3_small")
    gone, other = tmp_path / "gone.pth", tmp_path / "other.pth"
    other.write_bytes(b"other")
    assert refused("extract", data, *out, "--weights", gone) == f"there is no weights file {gone}"
    assert refused("extract", data, *out, "--weights", other).startswith(f"{other} is not a file of plain weights (")


@pytest.mark.parametrize(
    "options",
    [
        ("--views", -1),
        ("--views", "many"),
        ("--batch-size", 0),
        ("--augment", "mixup"),
        ("--dtype", "int8"),
        ("--val-fraction", 1),
        ("--image-size", 0),
    ],
)
def test_values_out_of_range_are_usage_errors(options: tuple[object, ...], data: Path, tmp_path: Path) -> None:
    message = refused("extract", data, "-o", tmp_path / "c.h5", *options, status=2)
    assert f"'{options[0]}'" in message


@pytest.mark.parametrize(
    "options",
    [
        ("--views", 70_000),
        ("--layers", ""),
        ("--layers", ","),
        ("--layers", "features.3:grid99999999"),
        ("--layers", "features.3:grid" + "9" * 5000),
        ("--device", "tpu"),
        ("--precision", "fp16", "--device", "cpu"),
    ],
    ids=str,
)
def test_a_bad_value_is_a_message_not_a_traceback(options: tuple[object, ...], data: Path, tmp_path: Path) -> None:
    result = featcache_cli("extract", data, "-o", tmp_path / "c.h5", *SMALL, *options)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2)
    assert "Error: " in result.stderr


def test_an_output_below_a_file_is_a_message_not_a_traceback(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in refused("extract", data, "-o", tmp_path / "file" / "c.h5", *SMALL)


def test_every_option_reaches_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, Any] = {}
    monkeypatch.setitem(vars(featcache), "extract", lambda **given: got.update(given))
    done("extract", "photos", "-o", "c.h5", "--backbone", "resnet50", "--weights", "w.pth", "--views", 7, "--augment",
         "crop", "--image-size", 96, "--batch-size", 8, "--workers", 3, "--device", "cpu", "--deterministic",
         "--precision", "bf16",
         "--dtype", "float32", "--seed", 4, "--layers", "layer3, penultimate,layer3", "--val-fraction", 0.3,
         "--split-seed", 9, "--engine", "compiled", "--strict", "--allow-leak", "--max-pixels", 9,
         "--val-views", 3, "--value-range", "-10:300", "--interpolation", "bilinear", "--decode-side", 640,
         "--cluster", "10.0.0.1:6379", "--gpus-per-worker", 0.5, "--cpus-per-worker", 2)  # fmt: skip
    assert callable(got.pop("progress"))
    assert callable(got.pop("on_note"))
    assert got == {
        "data": "photos", "out": "c.h5", "backbone": "resnet50", "weights": "w.pth", "views": 7, "augment": "crop",
        "val_views": 3,
        "image_size": 96, "batch_size": 8, "workers": 3, "device": "cpu", "deterministic": True,
        "precision": "bf16", "dtype": "float32",
        "seed": 4, "layers": "layer3, penultimate,layer3", "val_fraction": 0.3, "split_seed": 9,
        "engine": "compiled", "strict": True, "allow_leak": True, "max_pixels": 9,
        "label_column": None, "text_column": None, "skip_missing": False, "interpolation": "bilinear",
        "max_length": None, "prefix": None,
        "decode_side": 640,
        "value_range": (-10.0, 300.0), "cluster": featcache.Cluster("10.0.0.1:6379", 0.5, 2)}  # fmt: skip


def test_the_defaults_are_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = inspect.signature(featcache.extract).parameters
    got: dict[str, Any] = {}
    monkeypatch.setitem(vars(featcache), "extract", lambda **given: got.update(given))
    done("extract", "photos", "-o", "c.h5")
    for name in got.keys() - {"data", "out", "progress", "on_note"}:
        assert got[name] == parameters[name].default, name


def test_the_size_of_a_cache_of_grids_is_said_before_the_work(data: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "c.h5", ("--views", 2, *SMALL, "--layers", "last, features.3:grid4")
    first = featcache_cli("extract", data, "-o", out, *options).stderr
    expected = done("extract", data, "-o", tmp_path / "d.h5", *options, "--dry-run").splitlines()[1].split(" on a ")[0]
    assert f"{out} will take about {expected}: grids keep every place (features.3:grid4)\n" in first
    assert done("extract", data, "-o", out, *options).startswith(f"{out}: 18 images")  # it is there already
    assert as_json("extract", data, "-o", tmp_path / "e.h5", *options)["images"] == 18


def test_a_dry_run_estimates_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "c.h5"
    text = done("extract", data, "-o", out, "--views", 2, "--dry-run", *SMALL)
    assert text.startswith("18 images, 44 views: about ")
    assert " on a disk with " in text
    found = as_json("extract", data, "-o", out, "--views", 2, "--dry-run", *SMALL)
    assert (found["images"], found["views"]) == (18, 44)
    assert 0 < found["estimated_s"] < 60
    done("extract", data, "-o", tmp_path / "real.h5", "--views", 2, *SMALL)
    assert found["size_bytes"] == pytest.approx((tmp_path / "real.h5").stat().st_size, abs=100_000)
    assert not out.parent.exists()


def test_strict_stops_at_an_unreadable_image(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos")
    (photos / "train/ants/000.png").write_bytes(b"broken")
    message = refused("extract", photos, "-o", tmp_path / "c.h5", "--strict", *SMALL)
    assert message.startswith(f"{photos / 'train/ants/000.png'} cannot be read: not an image that Pillow can identify.")


def test_views_are_chosen_by_a_trial(data: Path, tmp_path: Path) -> None:
    line = ("extract", data, "-o", tmp_path / "c.h5", "--views", "auto", *SMALL)
    first = as_json(*line)
    trial = first["view_trial"]
    assert [(each["recipe"], each["views"]) for each in trial["candidates"]] == [
        (recipe, views) for recipe in ("gentle", "gentle-flip", "crop", "tutorial") for views in (1, 2, 4)
    ]
    assert first["seconds"]["trial"] > 0
    assert FeatureCache.open(tmp_path / "c.h5").spec.views == trial["views"]
    again = done(*line)
    assert "nothing to extract: the cache was complete\nviews: " in again
    assert "made by     view_trial: views: " in done("info", tmp_path / "c.h5")


def test_the_cost_of_auto_is_that_of_the_clean_views(data: Path, tmp_path: Path) -> None:
    said = featcache_cli("extract", data, "-o", tmp_path / "c.h5", "--views", "auto", "--dry-run", *SMALL)
    assert "18 images, 18 views: " in said.stdout
    assert "a trial and the views that lower the log-loss come after them" in said.stderr


@pytest.mark.parametrize(("command", "value"), [("extract", "many"), ("extract", "-1"), ("plan", "auto")])
def test_other_numbers_of_views_are_wrong_options(command: str, value: str, data: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "c.h5") if command == "extract" else ()
    said = featcache_cli(command, data, *out, "--views", value)
    assert said.exit_code == 2
    assert "Invalid value for '--views'" in said.stderr
