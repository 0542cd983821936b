"""What is odd about pictures is said by every command that decodes them: left out, black or clipped."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from commands import as_json, done, featcache_cli, write_folder
from featcache.backbones.backbone import Backbone
from featcache.data.input_notes import remark_notes
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.models.evaluate import evaluate
from featcache.vision.decode import decode_and_check
from toys import random_image, toy_backbone

FRAMES = [random_image(seed) for seed in range(3)]
PAGES, SEVERAL, BLACK = "first of several pages", "first of several frames", "nearly black"


def saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    FRAMES[0].save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(*pages: np.ndarray, **options: Any) -> bytes:
    """The second and later pages have the options."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, page in enumerate(pages):
            file.write(page, **{"photometric": "rgb", **(options if number else {})})
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_taken_and_said(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    still = decode_and_check(saved(kind, **options))
    moving = decode_and_check(saved(kind, save_all=True, append_images=FRAMES[1:], duration=50, **options))
    assert (still.remark, moving.remark) == ("", SEVERAL)
    np.testing.assert_array_equal(moving.pixels, still.pixels)


def test_the_first_page_of_a_tiff_is_taken_and_said() -> None:
    one, other = (np.asarray(frame) for frame in FRAMES[:2])
    found = decode_and_check(tiff(one, other, one))
    assert found.remark == PAGES
    np.testing.assert_array_equal(found.pixels, one)
    assert decode_and_check(tiff(one)).remark == ""


@pytest.mark.parametrize("subfiletype", [1, 4])
def test_a_preview_or_a_mask_behind_the_first_page_is_no_page(subfiletype: int) -> None:
    one = np.asarray(FRAMES[0])
    second, kind = (one[::2, ::2], "rgb") if subfiletype == 1 else (one[..., 0] > 90, "mask")
    assert decode_and_check(tiff(one, second, photometric=kind, subfiletype=subfiletype)).remark == ""


def test_pages_of_a_tiff_that_pillow_does_not_open_are_said() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for frame in FRAMES:
            file.write(np.asarray(frame).astype(np.uint16), photometric="rgb", planarconfig="contig")
    assert decode_and_check(buffer.getvalue(), value_range=(0, 255)).remark == PAGES


def test_previews_that_cameras_put_behind_a_jpeg_are_no_frames() -> None:
    """As gain maps are; pictures from several sides are frames."""
    data = bytearray(saved("MPO", save_all=True, append_images=FRAMES[1:]))
    assert decode_and_check(bytes(data)).remark == ""
    second = data.rindex(struct.pack("<L", 0x030000), 0, 150) + 16  # the type of the second entry of the index
    data[second : second + 4] = struct.pack("<L", 0x020002)
    assert decode_and_check(bytes(data)).remark == SEVERAL


def test_an_animation_that_is_black_says_both() -> None:
    buffer = io.BytesIO()
    dark = [Image.fromarray(np.asarray(frame) // 20) for frame in FRAMES]
    dark[0].save(buffer, "PNG", save_all=True, append_images=dark[1:])
    assert decode_and_check(buffer.getvalue()).remark == f"{BLACK}; {SEVERAL}"


def test_a_picture_that_uses_14_of_16_bits_is_said_where_no_range_scales_it() -> None:
    values = np.linspace(0, 16_000, 63).astype(np.uint16).reshape(7, 9)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    assert decode_and_check(buffer.getvalue()).remark == "dark, as it uses few of its bits"
    assert decode_and_check(buffer.getvalue(), value_range=(0, 16383)).remark == ""
    buffer = io.BytesIO()
    Image.fromarray(values * 2).save(buffer, "PNG")
    assert decode_and_check(buffer.getvalue()).remark == ""


def test_remarks_are_counted_in_a_line_each() -> None:
    pairs = [("a.tif", PAGES), ("b.tif", f"{BLACK}; {PAGES}"), ("c.gif", SEVERAL)]
    assert remark_notes(pairs) == [
        "2 images have several pages; the first is used (for example a.tif)",
        "1 image is nearly black (for example b.tif): see --value-range",
        "1 image has several frames; the first is used (for example c.gif)",
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight-bit images, of which three have several pages, and beside them a folder of odd ones."""
    root = write_folder(tmp_path_factory.mktemp("remarks") / "photos")
    for number in range(3):
        (root / f"train/ants/pages{number}.tif").write_bytes(
            tiff(np.asarray(random_image(900 + number)), np.asarray(random_image(950 + number)))
        )
    odd = root.parent / "odd/ants"
    odd.mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * (13 + number)).save(odd / f"deep{number}.png")
    (odd / "moving.gif").write_bytes(saved("GIF", save_all=True, append_images=FRAMES[1:]))
    random_image(1).save(odd / "plain.png")
    return root


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return toy_backbone()


@pytest.fixture(scope="module")
def head(data: Path, backbone: Backbone) -> Path:
    result = extract(data, data.parent / "c.h5", backbone=backbone, views=0)
    assert "3 images have several pages; the first is used (for example train/ants/pages0.tif)" in str(result)
    fit_head(result.cache, data.parent / "head", head="centroid")
    return data.parent / "head"


REMARKS = {"deep0.png": BLACK, "deep1.png": BLACK, "moving.gif": SEVERAL, "plain.png": None}


def test_a_prediction_has_the_remark(head: Path, data: Path, backbone: Backbone) -> None:
    model = Classifier.load(head, backbone=backbone)
    found = model.predict(data.parent / "odd")
    assert {Path(one.path).name: one.remark for one in found} == REMARKS
    assert [one.to_dict()["remark"] for one in found] == [one.remark for one in found]
    deep = Image.open(data.parent / "odd/ants/deep0.png")
    black = np.zeros((5, 6, 3), np.uint8)
    black[0, 0] = 3
    assert [one.remark for one in model.predict([deep, black, np.asarray(FRAMES[0])])] == [BLACK, BLACK, None]


def test_an_evaluation_counts_them(head: Path, data: Path, backbone: Backbone) -> None:
    found = evaluate(Classifier.load(head, backbone=backbone), data.parent / "odd")
    told = str(found).splitlines()
    assert (
        "2 images are nearly black (for example ants/deep0.png): the model takes 8 bits, or the upper 8 of 16" in told
    )
    assert "1 image has several frames; the first is used (for example ants/moving.gif)" in told
    assert found.to_dict()["remarks"][0] == {"path": "ants/deep0.png", "remark": BLACK}


@pytest.fixture(scope="module")
def named_head(data: Path) -> Path:
    done("extract", data, "-o", data.parent / "n.h5", "--views", 0, "--backbone", "mobilenet_v3_small", "--weights",
         "none", "--image-size", 32)  # fmt: skip
    done("fit-head", data.parent / "n.h5", "-o", data.parent / "named", "--head", "centroid")
    return data.parent / "named"


def test_predict_writes_and_counts_them(named_head: Path, data: Path) -> None:
    odd = data.parent / "odd"
    result = featcache_cli("predict", named_head, odd)
    assert result.stdout.splitlines()[0].endswith(f"\tremark: {BLACK}")
    assert [line.partition("remark: ")[2] or None for line in result.stdout.splitlines()] == list(REMARKS.values())
    assert result.stderr.splitlines() == [
        f"2 images are nearly black (for example {odd}/ants/deep0.png): the model takes 8 bits, or the upper 8 of 16",
        f"1 image has several frames; the first is used (for example {odd}/ants/moving.gif)",
    ]
    found = as_json("predict", named_head, odd)
    assert found["remarks"] == {BLACK: 2, SEVERAL: 1}
    assert [one["remark"] for one in found["predictions"]] == list(REMARKS.values())
    lines = done("predict", named_head, odd, "--format", "csv").splitlines()
    assert lines[0] == "path,label,probability,error,remark"
    assert lines[1].endswith(f",,{BLACK}")


def test_one_picture_alone_needs_no_count(named_head: Path, data: Path) -> None:
    result = featcache_cli("predict", named_head, data.parent / "odd/ants/deep0.png")
    assert result.stdout.rstrip().endswith(f"remark: {BLACK}")
    assert result.stderr == ""


def test_files_that_predict_passes_over_are_counted(named_head: Path, data: Path, tmp_path: Path) -> None:
    for number in range(2):
        random_image(number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.doc").write_text("text")
    (tmp_path / ".hidden.png").write_text("x")
    result = featcache_cli("predict", named_head, tmp_path)
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines() == [
        "ignored 1 file: hidden",
        "ignored 2 files: not an image (.doc)",
    ]
    found = json.loads(featcache_cli("predict", named_head, tmp_path, "--json").stdout)
    assert found["ignored"] == {"hidden": 1, "not an image (.doc)": 2}


def test_a_picture_where_white_is_zero_is_not_dark() -> None:
    values = np.random.default_rng(0).integers(1000, 9000, (32, 32)).astype(np.uint16)
    light, dark = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(light, values, photometric="miniswhite")
    tifffile.imwrite(dark, values, photometric="minisblack")
    assert decode_and_check(light.getvalue()).pixels.mean() > 200
    assert decode_and_check(light.getvalue()).remark == ""
    assert decode_and_check(dark.getvalue()).remark == "dark, as it uses few of its bits"


def test_a_list_has_the_remarks(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    image = sorted(data.rglob("train/*/*.png"))[0]
    Image.new("RGB", (40, 40)).save(image)
    extraction = extract(data, tmp_path / "c.h5", backbone=toy_backbone(), views=0)
    extraction.write_list(tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text().splitlines()[1:] == [f"remark,{image.relative_to(data)},,of one colour"]
