"""extract(): the network's answer to every view of every image, whatever the workers, batches and crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.backbones.backbone import Backbone
from featcache.backbones.engines.base import PendingFeatures
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import AUGMENTS, ViewSpec
from featcache.data.manifest import Manifest, read_manifest
from featcache.errors import CacheIncompleteError, CacheMismatchError, EmptyFolderError
from featcache.extraction.extract import extract
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from toys import TOY_MEAN, TOY_STD, toy_answer, toy_backbone

VIEWS = 3


def answers(manifest: Manifest, row: int, spec: ViewSpec, numbers: range) -> NDArray[np.float64]:
    """What the toy network says of some views of an image, computed without loader, network and cache."""
    image = decode(manifest.path(row).read_bytes())
    return toy_answer(make_views(image, spec, manifest.samples.sha256[row].tobytes(), numbers))


def bytes_of(path: Path) -> bytes:
    with h5py.File(path) as file:
        return file["features/penultimate"][:].tobytes()


def spy_on(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """The number of views in each forward pass; raises at pass number `fail_at`."""
    sizes: list[int] = []
    submit = backbone.submit

    def spy(pixels: NDArray[np.uint8]) -> PendingFeatures:
        if len(sizes) == fail_at:
            raise KeyboardInterrupt
        sizes.append(len(pixels))
        return submit(pixels)

    monkeypatch.setattr(backbone, "submit", spy)
    return sizes


def test_views_are_gentle_unless_a_recipe_is_named(split_folder: Path, tmp_path: Path) -> None:
    usual = extract(split_folder, tmp_path / "usual.h5", backbone=toy_backbone(), views=VIEWS).cache
    gentle = extract(split_folder, tmp_path / "gentle.h5", backbone=toy_backbone(), views=VIEWS, augment="gentle").cache
    assert usual.spec == gentle.spec
    assert bytes_of(usual.path) == bytes_of(gentle.path)
    assert usual.spec.view.augment == "gentle"


@pytest.mark.parametrize("augment", ["tutorial", "gentle", "crop"])
def test_without_views_any_recipe_is_the_same_cache(split_folder: Path, tmp_path: Path, augment: str) -> None:
    """Older versions wrote "tutorial" by default: the digest of a default cache stays as it was."""
    out, usual = tmp_path / "cache.h5", extract(split_folder, tmp_path / "usual.h5", backbone=toy_backbone()).cache
    cache = extract(split_folder, out, backbone=toy_backbone(), augment=augment).cache
    assert (cache.spec.digest() == usual.spec.digest()) == (augment == "tutorial")
    assert bytes_of(out) == bytes_of(usual.path)
    again = extract(split_folder, out, backbone=toy_backbone())
    assert (again.extracted, again.report.spec_digest) == (0, cache.spec.digest())


def test_an_unfinished_cache_without_views_goes_on_with_any_recipe(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, broken = tmp_path / "cache.h5", toy_backbone()
    spy_on(broken, monkeypatch, fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, out, backbone=broken, batch_size=8, augment="crop")
    (split_folder / "train/ants/000.png").unlink()  # so that it is set aside
    assert 0 < extract(split_folder, out, backbone=toy_backbone()).extracted < 17
    assert FeatureCache.open(out).spec.view.augment == "tutorial"


@pytest.mark.parametrize("augment", AUGMENTS)
def test_features_are_the_networks_answers_to_the_views(split_folder: Path, tmp_path: Path, augment: str) -> None:
    manifest = read_manifest(split_folder)
    out = tmp_path / "a.h5"
    cache = extract(manifest, out, backbone=toy_backbone(), views=VIEWS, augment=augment, seed=5).cache
    spec = ViewSpec(8, 10, augment=augment, seed=5, mean=TOY_MEAN, std=TOY_STD)
    assert cache.spec.view == spec
    for split, numbers in (("train", range(1 + VIEWS)), ("val", range(1))):
        found = cache.features(split)
        rows = manifest.samples.rows(split)
        expected = np.stack([answers(manifest, row, spec, numbers) for row in rows])
        assert found.x.dtype == np.float16
        np.testing.assert_allclose(found.x, expected, rtol=6e-4, atol=1e-3)
        np.testing.assert_array_equal(found.y, manifest.samples.labels[rows])
        assert found.samples.ids == tuple(manifest.samples.ids[row] for row in rows)


def test_float32_storage_keeps_the_answers_to_float32_rounding(split_folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(split_folder)
    backbone = toy_backbone()
    cache = extract(manifest, tmp_path / "a.h5", backbone=backbone, views=1, dtype="float32").cache
    spec = backbone.view_spec(augment="gentle", seed=0)
    expected = np.stack([answers(manifest, row, spec, range(2)) for row in manifest.samples.rows("train")])
    np.testing.assert_allclose(cache.features("train").x, expected, rtol=1e-5, atol=1e-5)


def test_workers_and_batch_size_change_no_byte(split_folder: Path, tmp_path: Path) -> None:
    files = []
    for workers, batch_size in ((1, 32), (2, 1), (5, 7), (2, 1000)):
        out = tmp_path / f"{workers}-{batch_size}.h5"
        extract(split_folder, out, backbone=toy_backbone(), views=VIEWS, workers=workers, batch_size=batch_size)
        files.append(bytes_of(out))
    assert len(set(files)) == 1


def test_an_unreadable_image_changes_no_other_feature(split_folder: Path, tmp_path: Path) -> None:
    whole = extract(split_folder, tmp_path / "whole.h5", backbone=toy_backbone(), views=VIEWS).cache
    victim = whole.samples.ids[3]
    (split_folder / victim).write_bytes(b"broken")
    broken = extract(split_folder, tmp_path / "broken.h5", backbone=toy_backbone(), views=VIEWS).cache
    kept = [row for row in range(13) if row != 3]
    np.testing.assert_array_equal(broken.features("train").x, whole.features("train").x[kept])
    assert broken.features("train").samples.ids == tuple(whole.samples.ids[row] for row in kept)


def test_a_forward_pass_takes_at_most_batch_size_views(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = toy_backbone()
    sizes = spy_on(backbone, monkeypatch)
    extract(split_folder, tmp_path / "a.h5", backbone=backbone, views=VIEWS, batch_size=11)
    assert sizes == [8] * 6 + [4, 5]  # 13 training images of 4 views, two a batch; 5 val images of one view


class Deferred:
    """An engine that computes only when it is asked, and says how much it was given beyond what it gave back."""

    note = ""

    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.under_way: list[int] = []
        self.most = 0

    def submit(self, pixels: NDArray[np.uint8]) -> PendingFeatures:
        self.under_way.append(len(pixels))
        self.most = max(self.most, sum(self.under_way))

        def features() -> list[NDArray[np.float32]]:
            self.under_way.remove(len(pixels))
            return [toy_answer(pixels).astype(np.float32)]

        return features


@pytest.mark.parametrize(("max_in_flight", "most"), [(0, 8), (8, 8 + 4 + 5), (10, 8 + 8 + 8), (10**6, 13 * 4 + 5)])
def test_an_engine_gets_its_appetite_and_no_more_and_every_row_its_own_features(
    max_in_flight: int, most: int, split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(split_folder, tmp_path / "plain.h5", backbone=toy_backbone(), views=VIEWS, dtype="float32")
    toy, engine = toy_backbone(), Deferred(max_in_flight)
    monkeypatch.setattr(toy, "_selected", (8, engine))
    extract(split_folder, tmp_path / "a.h5", backbone=toy, views=VIEWS, batch_size=8, dtype="float32")
    assert engine.under_way == []
    assert engine.most == most  # batches of 8 views, then the 13th image's 4, then 5 val images
    found, expected = (FeatureCache.open(tmp_path / name) for name in ("a.h5", "plain.h5"))
    for split in ("train", "val"):
        np.testing.assert_allclose(found.features(split).x, expected.features(split).x, rtol=1e-5, atol=1e-5)
        assert found.features(split).samples.ids == expected.features(split).samples.ids


def test_training_images_get_all_views_and_val_images_the_clean_one(split_folder: Path, tmp_path: Path) -> None:
    cache = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=VIEWS).cache
    assert cache.done.tolist() == [4] * 13 + [1] * 5
    assert cache.features("train").x.shape == (13, 4, 3)
    assert cache.features("val").x.shape == (5, 1, 3)
    with pytest.raises(CacheIncompleteError) as error:
        cache.features("val").view(2)
    assert str(error.value) == (
        "View 2 was asked for, but these features hold views 0 to 0. Extract with --views 2 or more."
    )


def test_no_views_are_the_clean_one_alone(split_folder: Path, tmp_path: Path) -> None:
    cache = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=0).cache
    many = extract(split_folder, tmp_path / "b.h5", backbone=toy_backbone(), views=2).cache
    assert cache.features("train").x.shape == (13, 1, 3)
    np.testing.assert_array_equal(cache.features("train").clean(), many.features("train").clean())


def test_skipped_and_ignored_files_are_reported(split_folder: Path, tmp_path: Path) -> None:
    (split_folder / "train/ants/000.png").write_bytes(b"")
    (split_folder / "val/bees/001.png").write_bytes(b"GIF89a?")
    (split_folder / "train/ants/notes.txt").write_text("hello")
    (split_folder / "train/bees/.hidden.png").write_bytes(b"x")
    extraction = extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1)
    names = [name for name, _ in extraction.skipped]
    assert names == ["train/ants/000.png", "val/bees/001.png"]
    assert extraction.skipped[0][1] == "the file is empty (0 bytes)"
    assert extraction.cache.skipped == extraction.skipped
    assert extraction.ignored == {"not an image (.txt)": 1, "hidden": 1}
    assert extraction.extracted == 16
    assert extraction.cache.done.tolist() == [0] + [2] * 12 + [1] * 4 + [0]
    fields = extraction.to_dict()
    assert fields["skipped"][0] == {"path": "train/ants/000.png", "reason": "the file is empty (0 bytes)"}
    assert fields["ignored"] == {"not an image (.txt)": 1, "hidden": 1}


def test_the_report_says_what_it_cost(split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "folder" / "a.h5"
    extraction = extract(split_folder, out, backbone=toy_backbone(), views=1, seed=9)
    report = extraction.report
    assert (report.method, report.images, report.seed) == ("extract", 18, 9)
    assert report.size_bytes == out.stat().st_size
    assert report.spec_digest == extraction.cache.spec.digest()
    assert set(report.seconds) == {"hash", "start", "read", "decode", "view", "forward", "write", "stop", "wall"}
    assert max(report.seconds["forward"], report.seconds["write"]) < report.seconds["wall"]
    fields = extraction.to_dict()
    assert (fields["cache"], fields["extracted"], fields["method"]) == (str(out), 18, "extract")


def test_the_cache_names_network_weights_and_seed(split_folder: Path, tmp_path: Path) -> None:
    backbone = toy_backbone()
    cache = extract(split_folder, tmp_path / "a.h5", backbone=backbone, views=1, seed=9, image_size=4).cache
    assert cache.spec.backbone == "toy"
    assert cache.spec.weights_sha256 == backbone.weights_sha256
    assert (cache.spec.view.mean, cache.spec.view.std) == (backbone.mean, backbone.std)
    assert (cache.spec.view.image_size, cache.spec.view.resize_size, cache.spec.view.seed) == (4, 5, 9)
    assert cache.provenance["weights"] == "none"
    assert cache.provenance["device"] == "cpu"
    assert {"torch", "numpy", "python"} <= cache.provenance["versions"].keys()


def test_a_second_call_extracts_nothing(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a.h5"
    (split_folder / "train/ants/000.png").write_bytes(b"")
    first = extract(split_folder, out, backbone=toy_backbone(), views=1)
    before = out.read_bytes()
    backbone = toy_backbone()
    sizes = spy_on(backbone, monkeypatch)
    second = extract(split_folder, out, backbone=backbone, views=1)
    assert (second.extracted, second.report.images, sizes) == (0, 0, [])
    assert second.skipped == first.skipped
    assert out.read_bytes() == before


def test_an_interrupted_run_resumes_with_the_missing_rows_only(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out = tmp_path / "whole.h5", tmp_path / "a.h5"
    extract(split_folder, expected, backbone=toy_backbone(), views=VIEWS)
    interrupted, resumed = toy_backbone(), toy_backbone()
    spy_on(interrupted, monkeypatch, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, out, backbone=interrupted, views=VIEWS, batch_size=12)
    assert not out.exists()
    sizes = spy_on(resumed, monkeypatch)
    extract(split_folder, out, backbone=resumed, views=VIEWS, batch_size=12)
    assert sum(sizes) == (13 - 6) * 4 + 5
    assert bytes_of(out) == bytes_of(expected)
    assert not (tmp_path / "a.h5.partial").exists()


def test_a_resumed_run_counts_only_the_images_that_it_extracted(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, interrupted = tmp_path / "a.h5", toy_backbone()
    spy_on(interrupted, monkeypatch, fail_at=2)
    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, out, backbone=interrupted, views=VIEWS, batch_size=12)
    extraction = extract(split_folder, out, backbone=toy_backbone(), views=VIEWS)
    assert (extraction.extracted, extraction.report.images) == (12, 12)


def test_progress_counts_every_image_up_to_the_total(split_folder: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    extract(
        split_folder,
        tmp_path / "a.h5",
        backbone=toy_backbone(),
        views=1,
        batch_size=4,
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert [call for call in calls if call[0] == "hash"] == [("hash", 18, 18)]
    counts = [done for what, done, _ in calls if what == "extract"]
    assert counts == sorted(set(counts))
    assert calls[-1] == ("extract", 18, 18)


def test_progress_reaches_the_total_though_the_last_image_is_unreadable(split_folder: Path, tmp_path: Path) -> None:
    (split_folder / "val/bees/001.png").write_bytes(b"")
    calls: list[tuple[str, int, int]] = []
    extract(
        split_folder,
        tmp_path / "a.h5",
        backbone=toy_backbone(),
        views=1,
        batch_size=1,
        progress=lambda what, done, total: calls.append((what, done, total)),
    )
    assert calls[-1] == ("extract", 18, 18)


def test_a_file_changed_during_extraction_is_skipped_with_its_reason(split_folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(split_folder)
    manifest.path(4).write_bytes(manifest.path(5).read_bytes())
    extraction = extract(manifest, tmp_path / "a.h5", backbone=toy_backbone(), views=1)
    assert extraction.skipped == [
        (
            manifest.samples.ids[4],
            "its bytes are not those that were hashed: it has changed, or its manifest's sha256 is of another file",
        )
    ]
    assert extraction.cache.done[4] == 0
    with pytest.raises(CacheMismatchError, match="1 changed in content"):
        extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1)


def test_another_spec_is_refused_before_anything_is_computed(split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.h5"
    extract(split_folder, out, backbone=toy_backbone(), views=1)
    before = out.read_bytes()
    with pytest.raises(CacheMismatchError) as error:
        extract(split_folder, out, backbone=toy_backbone(), views=2, image_size=4, seed=1)
    assert str(error.value) == (
        f"{out} was made with image_size=8, you asked for 4; resize_size=10, you asked for 5; "
        "seed=0, you asked for 1; views=1, you asked for 2. "
        "Extract again to another file, or ask for what the cache has."
    )
    assert out.read_bytes() == before


def test_a_partial_file_of_another_spec_is_refused(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, interrupted = tmp_path / "photos.h5", toy_backbone()
    spy_on(interrupted, monkeypatch, fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        extract(split_folder, out, backbone=interrupted, views=1)
    with pytest.raises(CacheMismatchError) as error:
        extract(split_folder, out, backbone=toy_backbone(), views=1, augment="crop")
    assert str(error.value) == (
        f"{out}.partial was made with augment=gentle, you asked for crop. It is unfinished: continue with its "
        f"settings, give another file, or remove photos.h5.partial."
    )


def test_all_images_unreadable_is_an_error(split_folder: Path, tmp_path: Path) -> None:
    for path in split_folder.rglob("*.png"):
        path.write_bytes(b"broken" + str(path).encode())
    with pytest.raises(EmptyFolderError) as error:
        extract(split_folder, tmp_path / "a.h5", backbone=toy_backbone(), views=1)
    assert str(error.value) == (
        f"none of the 18 images of {split_folder} could be read; "
        "train/ants/000.png: not an image that Pillow can identify"
    )
    assert not (tmp_path / "a.h5").exists()


def test_a_run_goes_on_with_the_engine_that_began_it(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 rows of two engines would be of two kinds."""
    network: dict[str, Any] = {"backbone": "mobilenet_v3_small", "weights": "none", "image_size": 32, "device": "cpu"}
    run = lambda **more: extract(split_folder, tmp_path / "c.h5", views=1, batch_size=2, **network, **more)  # noqa: E731

    def stop(what: str, done: int, _total: int) -> None:
        if (what, done > 2) == ("extract", True):
            raise KeyboardInterrupt

    asked: list[tuple[str, str]] = []
    select_engine = Backbone.select_engine

    def recorded(self: Backbone, image_size: int, engine: Any = "auto", views: int = 0, like: str = "") -> None:
        asked.append((engine, like))
        select_engine(self, image_size, engine, views, like)

    monkeypatch.setattr(Backbone, "select_engine", recorded)
    with pytest.raises(KeyboardInterrupt):
        run(engine="pytorch", progress=stop)
    found = run()
    assert asked == [("pytorch", ""), ("auto", "pytorch")]
    assert found.cache.provenance["engine"] == "pytorch"
