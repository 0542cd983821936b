"""LAW 1: a head trained on K cached views is the head trained live for K epochs. The cache changes the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.core.specs import LIVE_AUGMENT, Augment
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head
from featcache.training.loop import EpochMetrics, TrainConfig
from toys import toy_backbone
from trainable import trainable_backbone

EPOCHS = 5


def from_cache(data: Path, out: Path, recipe: TrainConfig, backbone: Backbone, **options: Any) -> Any:
    """History and head of sgd on as many cached views as there are epochs."""
    seed, options = options.get("seed", 0), {"augment": LIVE_AUGMENT, **options}
    cache = extract(data, out, backbone=backbone, views=recipe.epochs, dtype="float32", **options).cache
    fit = fit_head(cache, head="sgd", parameters=vars(recipe), seed=seed)
    return fit.history, fit.estimator


def live(data: Path, out: Path, recipe: TrainConfig, backbone: Backbone, **options: Any) -> Any:
    """History and head of the frozen network run in every epoch."""
    run = finetune(data, out, backbone=backbone, mode="head", config=recipe, **options)
    return run.history, load_head(out / "head.safetensors")


def assert_equal(found: list[EpochMetrics], expected: list[EpochMetrics], rel: float = 1e-5) -> None:
    for name in ("epoch", "lr", "accuracy", "val_accuracy"):
        assert [getattr(epoch, name) for epoch in found] == [getattr(epoch, name) for epoch in expected]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(
            [getattr(epoch, name) for epoch in found], [getattr(epoch, name) for epoch in expected], rtol=rel
        )


@pytest.mark.parametrize("make", [toy_backbone, trainable_backbone])
@pytest.mark.parametrize("augment", ["tutorial", "crop", "trivial", "none"])
def test_cached_views_and_live_epochs_give_one_loss_curve(
    split_folder: Path, tmp_path: Path, augment: Augment, make: Callable[[], Backbone]
) -> None:
    recipe = TrainConfig(epochs=EPOCHS, batch_size=4, lr=0.05, schedule="cosine", weight_decay=1e-3)
    options = {"augment": augment, "seed": 6}
    cached, head = from_cache(split_folder, tmp_path / "a.h5", recipe, make(), **options)
    history, live_head = live(split_folder, tmp_path / "run", recipe, make(), **options)
    assert len({epoch.loss for epoch in history}) == EPOCHS
    assert_equal(cached, history)
    np.testing.assert_allclose(head.coef_, live_head.coef_, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(head.intercept_, live_head.intercept_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_holds_for_other_batch_sizes_optimizers_and_worker_counts(
    split_folder: Path, tmp_path: Path, batch_size: int, optimizer: Any
) -> None:
    recipe = TrainConfig(epochs=3, batch_size=batch_size, lr=0.02, optimizer=optimizer, step_size=2)
    curves = []
    for workers in (1, 4):
        cached, _ = from_cache(
            split_folder, tmp_path / f"{workers}.h5", recipe, toy_backbone(), workers=workers, batch_size=7
        )
        history, _ = live(split_folder, tmp_path / f"{workers}", recipe, toy_backbone(), workers=workers)
        curves += [cached, history]
    for other in curves[1:]:
        assert_equal(other, curves[0])


def test_it_holds_with_unreadable_and_doubled_images(split_folder: Path, tmp_path: Path) -> None:
    for name in ("train/ants/002.png", "train/bees/000.png", "val/bees/001.png"):
        (split_folder / name).write_bytes(b"")
    (split_folder / "train/ants/copy.png").write_bytes((split_folder / "train/ants/004.png").read_bytes())
    recipe = TrainConfig(epochs=EPOCHS, batch_size=5, lr=0.05)
    cached, _ = from_cache(split_folder, tmp_path / "a.h5", recipe, toy_backbone())
    history, _ = live(split_folder, tmp_path / "run", recipe, toy_backbone(), workers=2)
    assert_equal(cached, history)
    assert {epoch.val_accuracy for epoch in history} <= {0.0, 0.25, 0.5, 0.75, 1.0}  # of 4 readable ones


def test_other_seeds_give_other_curves(split_folder: Path, tmp_path: Path) -> None:
    recipe = TrainConfig(epochs=2, batch_size=4)
    first, _ = live(split_folder, tmp_path / "a", recipe, toy_backbone(), seed=1)
    second, _ = live(split_folder, tmp_path / "b", recipe, toy_backbone(), seed=2)
    assert abs(first[0].loss / second[0].loss - 1) > 1e-3


def test_it_holds_on_real_photos(ants_bees: Path, tmp_path: Path) -> None:
    recipe = TrainConfig(epochs=2, batch_size=32, lr=0.01)
    backbone = load_backbone(device="cpu", precision="fp32")
    cached, _ = from_cache(ants_bees, tmp_path / "a.h5", recipe, backbone, image_size=64)
    history, _ = live(ants_bees, tmp_path / "run", recipe, backbone, image_size=64)
    assert len(cached) == len(history) == 2
    for found, expected in zip(cached, history, strict=True):
        assert found.loss == pytest.approx(expected.loss, rel=1e-3)
        assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-3)
        assert abs(found.val_accuracy - expected.val_accuracy) <= 1 / 153 + 1e-9
