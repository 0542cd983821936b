"""`extract(views="auto")`: clean features, a trial, the views that help; a kill loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import featcache
from featcache.analysis.views import trial as view_trial
from featcache.analysis.views.trial import ViewTrial
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import SpecError
from featcache.extraction.extract import extract as extract_views


class ThirdsNet(nn.Module):
    """The mean of each third of an image: a flip changes it, a gentle crop hardly."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.mean((1, 2)).unfold(1, 4, 4).mean(2)


class Shown:
    """Views that networks were shown since `backbone` was called."""

    count = 0


@pytest.fixture(autouse=True)
def _count(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Backbone.submit

    def counted(self: Backbone, pixels: NDArray[np.uint8]) -> PendingFeatures:
        Shown.count += len(pixels) * bool(pixels.any())  # a network is probed with a black image
        return submit(self, pixels)

    monkeypatch.setattr(Backbone, "submit", counted)


def backbone() -> Backbone:
    network = Backbone(ThirdsNet(), name="thirds", image_size=12, resize_size=14, mean=(0.5,) * 3, std=(0.5,) * 3)
    Shown.count = 0
    return network


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright to the left, or to the right, under noise: a flip turns one class into the other."""
    folder, rng = tmp_path_factory.mktemp("flags"), np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 4)):
        for side in ("left", "right"):
            (folder / split / side).mkdir(parents=True)
            for number in range(count):
                slope = np.linspace(60, -60, 24) * rng.uniform(0.3, 1.0)
                pixels = (
                    128 + (slope if side == "left" else slope[::-1])[None, :, None] + rng.normal(0, 30, (24, 24, 3))
                )
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / side / f"{number:03d}.png")
    return folder


def decide(monkeypatch: pytest.MonkeyPatch, recipe: str, views: int) -> list[str]:
    """A trial with this outcome; returns the list of its calls."""
    calls: list[str] = []

    def run_trial(*arguments: Any) -> ViewTrial:
        calls.append(recipe)
        text = f"views: {views} by {recipe}\n  as the test says"
        return ViewTrial(recipe, views, text, tuple(arguments[3]), None, 0.25, 7)

    monkeypatch.setattr(view_trial, "run_trial", run_trial)
    return calls


class StopError(Exception):
    """What a progress callback raises."""


def stop_at(step: str, times: int = 1) -> Callable[[str, int, int], None]:
    left = [times]

    def progress(what: str, done: int, total: int) -> None:
        left[0] -= what == step and done > 0
        if left[0] <= 0:
            raise StopError

    return progress


def test_a_flip_that_swaps_the_classes_is_found_out(flags: Path, tmp_path: Path) -> None:
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    record = found.view_trial
    assert record is not None
    assert Shown.count == 60 + 8 + 4 * 4 * 60 + 60 * found.cache.spec.views
    assert record["shown"] == 4 * 4 * 60
    gains = {(each["recipe"], each["views"]): each["log_loss_gain"] for each in record["candidates"]}
    for recipe in ("gentle-flip", "crop", "tutorial"):
        assert gains[recipe, 4][0] < min(0, gains["gentle", 4][0]), recipe
    assert record["recipe"] in ("", "gentle")
    assert "the 95 % intervals hold for all together" in str(found)
    assert f"made by     view_trial: {record['text'].splitlines()[0]}; on 60 training images" in str(found.cache)


def test_views_that_lower_the_log_loss_are_those_of_a_plain_extraction(
    flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decide(monkeypatch, "gentle", 2)
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert Shown.count == found.shown == 68 + 2 * 60
    expected = extract_views(flags, tmp_path / "b.h5", backbone=backbone(), views=2, augment="gentle")
    found.cache.check_matches(expected.cache.spec, expected.cache.samples)
    for split in ("train", "val"):
        np.testing.assert_array_equal(found.cache.features(split).x, expected.cache.features(split).x)
    assert "views: 2 by gentle\n  as the test says\n  the views took" in str(found)
    again = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert (again.extracted, Shown.count, calls) == (0, 0, ["gentle"])
    assert again.view_trial == found.view_trial == found.to_dict()["view_trial"]


def test_no_views_are_added_where_none_lower_the_log_loss_and_the_cache_says_so(
    flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decide(monkeypatch, "", 0)
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert (found.cache.spec.views, found.cache.spec.view.augment, found.shown) == (0, "tutorial", 68)
    extract_views(flags, tmp_path / "a.h5", backbone=backbone(), views=0)  # it is the cache of a plain extraction
    again = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert (again.extracted, calls) == (0, [""])


def test_a_clean_cache_gets_the_views(flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(monkeypatch, "crop", 1)
    extract_views(flags, tmp_path / "a.h5", backbone=backbone(), views=0)
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert (found.extracted, found.shown, Shown.count) == (60, 60, 60)
    assert (found.cache.spec.views, found.cache.spec.view.augment) == (1, "crop")


def test_a_recipe_that_the_trial_did_not_compare_is_compared_now(
    flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.h5"
    first = decide(monkeypatch, "gentle", 2)
    featcache.extract(flags, out, backbone=backbone(), views="auto")
    for augment in ("crop", "none", None):  # the trial compared them, or there is nothing to compare
        again = featcache.extract(flags, out, backbone=backbone(), views="auto", augment=augment)
        assert (again.extracted, first) == (0, ["gentle"])
    notes: list[str] = []
    second = decide(monkeypatch, "trivial", 1)
    with pytest.raises(StopError):
        featcache.extract(
            flags, out, backbone=backbone(), views="auto", augment="trivial", batch_size=4,
            progress=stop_at("extract", 9), on_note=notes.append,
        )  # fmt: skip
    assert f"the trial of {out} did not compare trivial: it is repeated" in notes
    found = featcache.extract(flags, out, backbone=backbone(), views="auto", augment="trivial", batch_size=4)
    assert second == ["trivial"]
    assert (found.cache.spec.views, found.cache.spec.view.augment) == (1, "trivial")
    assert found.view_trial is not None
    assert found.view_trial["recipes"] == ["gentle", "gentle-flip", "crop", "tutorial", "trivial"]
    expected = extract_views(flags, tmp_path / "b.h5", backbone=backbone(), views=1, augment="trivial").cache
    np.testing.assert_array_equal(found.cache.features("train").x, expected.features("train").x)
    for augment in ("trivial", "crop", None):
        featcache.extract(flags, out, backbone=backbone(), views="auto", augment=augment)
    assert (Shown.count, second) == (0, ["trivial"])


@pytest.mark.parametrize(("change", "kept"), [({"views": 3}, False), ({"augment": "crop"}, False), ({}, True)])
def test_other_views_are_not_those_that_a_trial_chose(
    change: Any, kept: bool, flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, "gentle", 2)
    images = shutil.copytree(flags, tmp_path / "images")
    featcache.extract(images, tmp_path / "a.h5", backbone=backbone(), views="auto")
    (images / "train" / "left" / "000.png").unlink()
    featcache.update(tmp_path / "a.h5", images, backbone=backbone(), **change)
    assert ("view_trial" in FeatureCache.open(tmp_path / "a.h5").provenance) == kept


def test_a_call_killed_in_the_trial_leaves_a_clean_cache_and_goes_on(flags: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto", progress=stop_at("trial"))
    assert FeatureCache.open(tmp_path / "a.h5").spec.views == 0
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto")
    assert Shown.count == 4 * 4 * 60 + 60 * found.cache.spec.views  # no clean view again
    whole = featcache.extract(flags, tmp_path / "b.h5", backbone=backbone(), views="auto")
    assert whole.cache.spec == found.cache.spec
    assert whole.view_trial is not None
    assert found.view_trial is not None
    assert whole.view_trial["candidates"] == found.view_trial["candidates"]


def test_a_call_killed_among_the_views_goes_on_without_a_second_trial(
    flags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = decide(monkeypatch, "gentle", 2)
    extract_views(flags, tmp_path / "a.h5", backbone=backbone(), views=0)
    with pytest.raises(StopError):
        featcache.extract(
            flags, tmp_path / "a.h5", backbone=backbone(), views="auto", batch_size=4, progress=stop_at("extract", 9)
        )
    first = Shown.count
    assert FeatureCache.open(tmp_path / "a.h5").spec.views == 0
    found = featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto", batch_size=4)
    assert calls == ["gentle"]
    assert 0 < Shown.count < 120 <= first + Shown.count
    assert found.cache.spec.views == 2
    expected = extract_views(flags, tmp_path / "b.h5", backbone=backbone(), views=2, augment="gentle").cache
    np.testing.assert_array_equal(found.cache.features("train").x, expected.features("train").x)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"val_views": 1}, "with val_views, give their number"), ({"cluster": object()}, "with a cluster, give")],
)
def test_what_cannot_be_chosen_is_refused(flags: Path, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        featcache.extract(flags, tmp_path / "a.h5", backbone=backbone(), views="auto", **options)
    assert not (tmp_path / "a.h5").exists()
