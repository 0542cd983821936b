"""finetune: a killed run resumes to the very same result, a frozen network stays frozen, the best epoch is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch

from featcache.analysis.benchmark.compare import benchmark
from featcache.backbones.load import load_backbone
from featcache.backbones.sources import registry
from featcache.core.model_card import ModelCard
from featcache.core.specs import ViewSpec
from featcache.data.manifest import read_manifest
from featcache.errors import EmptyFolderError, FeatcacheError, HeadError, RunError
from featcache.finetuning import finetune as finetuning
from featcache.finetuning.finetune import FineTune, finetune
from featcache.finetuning.run import FineTuneRun
from featcache.heads.io import load_head
from featcache.heads.predict import classify
from featcache.metrics.predictions import read_predictions
from featcache.training.loop import EpochMetrics, TrainConfig, TrainState, evaluate_module, linear_layer
from featcache.training.network import BackboneWithHead
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from foreign import Payload
from forks import fork
from toys import toy_answer, toy_backbone
from trainable import CONFIG, SEED, finetune_and_die, trainable_backbone

MakeFolder = Callable[..., Path]


def timeless(history: list[EpochMetrics]) -> list[EpochMetrics]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history]


def tune(data: Path, out: Path, **options: Any) -> FineTune:
    return finetune(data, out, **{"backbone": trainable_backbone(), "config": CONFIG, **options})


def clean_pixels(data: Path, split: str, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """Clean views and labels of the readable images of a split."""
    manifest = read_manifest(data)
    rows = manifest.samples.rows(split)
    pixels = [make_views(decode(manifest.path(row).read_bytes()), spec, b"", [0])[0] for row in rows]
    return np.stack(pixels), manifest.samples.labels[rows]


def saved_network(out: Path) -> BackboneWithHead:
    network = BackboneWithHead(trainable_backbone().module, linear_layer(4, 2, 9))
    network.load(out / "network.safetensors")
    return network


def predictions(out: Path, data: Path, split: str, spec: ViewSpec) -> tuple[np.ndarray, np.ndarray]:
    """What the saved network says of a split, and the labels, without loader and finetune."""
    pixels, labels = clean_pixels(data, split, spec)
    x, y = trainable_backbone().normalise(pixels), torch.from_numpy(labels)
    return evaluate_module(saved_network(out), iter([(x, y)])).predicted.numpy(), labels


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize(
    "moment",
    [
        "after the epoch",
        "while weights are written",
        "before model.json",
        "while the checkpoint is written",
    ],
)
def test_a_killed_run_resumes_to_the_result_of_an_uninterrupted_one(
    moment: str, epoch: int, split_folder: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    expected = tune(split_folder, whole, seed=SEED)
    assert expected.best.epoch == 2
    process = fork(finetune_and_die, str(split_folder), str(out), moment, epoch)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    reported: list[EpochMetrics] = []
    result = tune(split_folder, out, seed=SEED, resume=True, on_epoch=reported.append)
    assert timeless(result.history) == timeless(expected.history) == timeless(reported)
    assert len({value.loss for value in result.history}) == CONFIG.epochs
    assert result.report.accuracy == expected.report.accuracy
    for name in ("network.safetensors", "model.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("mode", ["all", "head"])
def test_an_interrupted_run_resumes_with_other_workers(mode: Any, split_folder: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(epoch: EpochMetrics) -> None:
        if epoch.epoch == 2:
            raise StopError

    whole = tune(split_folder, tmp_path / "whole", mode=mode, seed=SEED, workers=1)
    with pytest.raises(StopError):
        tune(split_folder, tmp_path / "cut", mode=mode, seed=SEED, on_epoch=stop)
    torch.manual_seed(5)
    result = tune(split_folder, tmp_path / "cut", mode=mode, seed=SEED, workers=3, resume=True)
    assert timeless(result.history) == timeless(whole.history)
    file = ModelCard.read(tmp_path / "cut").file
    assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_resuming_a_finished_run_changes_nothing(split_folder: Path, tmp_path: Path) -> None:
    (split_folder / "train/ants/003.png").write_bytes(b"")
    first = tune(split_folder, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != "run.json"}
    again = tune(split_folder, tmp_path / "run", resume=True)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != "run.json"}
    assert again.history == first.history
    assert after == before
    assert again.report.accuracy == first.report.accuracy


def test_a_resumed_run_still_lists_what_was_skipped(split_folder: Path, tmp_path: Path) -> None:
    (split_folder / "train/ants/003.png").write_bytes(b"")
    first = tune(split_folder, tmp_path / "run")
    assert [name for name, _ in first.skipped] == ["train/ants/003.png"]
    assert tune(split_folder, tmp_path / "run", resume=True).skipped == first.skipped
    result = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [entry["path"] for entry in result["skipped"]] == ["train/ants/003.png"]


def test_resume_begins_a_run_that_is_not_there(split_folder: Path, tmp_path: Path) -> None:
    assert len(tune(split_folder, tmp_path / "run", resume=True).history) == CONFIG.epochs


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"config": dataclasses.replace(CONFIG, lr=0.1)}, "lr=0.02, you asked for 0.1"),
        ({"mode": "head"}, "train=all, you asked for head"),
        ({"seed": 3}, "seed=0, you asked for 3"),
        ({"augment": "crop"}, "augment=tutorial, you asked for crop"),
        (
            {"image_size": 4, "config": dataclasses.replace(CONFIG, batch_size=6, epochs=9)},
            "image_size=8, you asked for 4; epochs=4, you asked for 9; batch_size=4, you asked for 6",
        ),
    ],
)
def test_resuming_with_other_settings_is_refused_naming_them(
    options: dict[str, Any], phrase: str, split_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tune(split_folder, out)
    with pytest.raises(RunError) as caught:
        tune(split_folder, out, resume=True, **options)
    assert str(caught.value) == (
        f"{out} was run with {phrase}. Resume with the same settings, give another folder, or begin again with "
        "--overwrite."
    )


def test_another_recipe_is_refused_before_images_are_read_and_a_network_is_loaded(
    split_folder: Path, tmp_path: Path
) -> None:
    tune(split_folder, tmp_path / "run", config=dataclasses.replace(CONFIG, epochs=1))
    with pytest.raises(RunError, match=r"with epochs=1, you asked for 2\. To train it longer, add --resume; or give"):
        tune(tmp_path / "gone", tmp_path / "run", config=dataclasses.replace(CONFIG, epochs=2))
    with pytest.raises(
        RunError, match=r"with backbone=trainable, you asked for resnet18; .*Resume with the same settings"
    ):
        finetune(tmp_path / "gone", tmp_path / "run", backbone="resnet18", config=CONFIG)
    with pytest.raises(EmptyFolderError, match="gone does not exist"):
        finetune(tmp_path / "gone", tmp_path / "run", backbone="resnet18", config=CONFIG, overwrite=True)


def test_resuming_on_other_images_is_refused(split_folder: Path, tmp_path: Path) -> None:
    tune(split_folder, tmp_path / "run")
    (split_folder / "train/ants/000.png").unlink()
    with pytest.raises(RunError, match=r"was run with images=[0-9a-f]{64}, you asked for [0-9a-f]{64}\. Resume"):
        tune(split_folder, tmp_path / "run", resume=True)


def test_resuming_with_another_limit_of_pixels_is_refused(split_folder: Path, tmp_path: Path) -> None:
    """Images above it are skipped, so that another limit is another training set."""
    tune(split_folder, tmp_path / "run", config=TrainConfig(epochs=1))
    with pytest.raises(
        RunError, match="was run with max_pixels=178956970, you asked for 99999; epochs=1, you asked for 2"
    ):
        tune(split_folder, tmp_path / "run", config=TrainConfig(epochs=2), max_pixels=99_999, resume=True)


@pytest.mark.parametrize("damage", ["empty", "half", "pickle"])
def test_a_damaged_checkpoint_is_refused_and_not_run(damage: str, split_folder: Path, tmp_path: Path) -> None:
    tune(split_folder, tmp_path / "run")
    file, mark = tmp_path / "run" / "last.pt", tmp_path / "mark"
    if damage == "pickle":
        torch.save({"config": Payload(str(mark))}, file)
    else:
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 2000])
    try:
        with pytest.raises(RunError, match=r"last\.pt"):
            tune(split_folder, tmp_path / "run", resume=True)
    finally:
        assert not mark.exists()


def test_a_checkpoint_with_classes_that_there_are_none_of_is_damaged(split_folder: Path, tmp_path: Path) -> None:
    tune(split_folder, tmp_path / "run")
    state = torch.load(tmp_path / "run/last.pt", weights_only=True)
    state["best_val"]["predicted"][0] = 2**60
    torch.save(state, tmp_path / "run/last.pt")
    with pytest.raises(RunError, match=r"last\.pt is not a checkpoint that can be loaded safely"):
        tune(split_folder, tmp_path / "run", resume=True)


def test_a_checkpoint_that_cannot_be_read_is_not_said_to_be_damaged(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(split_folder, tmp_path / "run")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        tune(split_folder, tmp_path / "run", resume=True)


def test_a_folder_with_other_things_is_refused(split_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(HeadError, match=r"holds other files and no model\.json"):
        tune(split_folder, tmp_path / "full")


def test_training_the_head_leaves_the_network_in_eval_mode_and_as_it_was(split_folder: Path, tmp_path: Path) -> None:
    backbone = trainable_backbone()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    modes: set[bool] = set()
    backbone.module.register_forward_hook(lambda module, *_: modes.add(module.training))
    tune(split_folder, tmp_path / "run", backbone=backbone, mode="head")
    assert modes == {False}
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(before[name], value), name
    card = ModelCard.read(tmp_path / "run")
    assert (card.kind, card.file, card.head) == ("head", "head.safetensors", "sgd")
    assert card.spec.weights_sha256 == backbone.weights_sha256


def test_a_live_head_learns_on_the_network_s_answers(split_folder: Path, tmp_path: Path) -> None:
    """Val figures of the saved head from the toy network's two lines of numpy."""
    run = finetune(
        split_folder, tmp_path / "run", backbone=toy_backbone(), mode="head", config=TrainConfig(epochs=4, lr=0.2)
    )
    pixels, labels = clean_pixels(split_folder, "val", toy_backbone().view_spec())
    result = classify(load_head(tmp_path / "run" / "head.safetensors"), toy_answer(pixels), 3)[0]
    assert run.best.val_accuracy == float((result == labels).mean())


def test_training_all_changes_every_weight_of_a_copy(split_folder: Path, tmp_path: Path) -> None:
    backbone = trainable_backbone()
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    tune(split_folder, tmp_path / "run", backbone=backbone)
    for name, value in saved_network(tmp_path / "run").body.state_dict().items():
        assert not torch.equal(before[name], value), name
        assert torch.equal(backbone.module.state_dict()[name], before[name]), name
    assert not backbone.module.training


def test_the_first_loss_is_that_of_the_given_weights_on_view_1(split_folder: Path, tmp_path: Path) -> None:
    backbone = trainable_backbone()
    backbone.module.dropout.p = 0.0
    config = TrainConfig(epochs=1, batch_size=13, lr=0.1)
    run = tune(split_folder, tmp_path / "run", backbone=backbone, config=config, seed=2)
    manifest, spec = read_manifest(split_folder), backbone.view_spec(seed=2)
    rows = manifest.samples.rows("train")
    views = [
        make_views(decode(manifest.path(row).read_bytes()), spec, manifest.samples.sha256[row].tobytes(), [1])[0]
        for row in rows
    ]
    network = BackboneWithHead(backbone.trainable_module(), linear_layer(4, 2, 2)).train()
    loss = torch.nn.functional.cross_entropy(
        network(backbone.normalise(np.stack(views))), torch.from_numpy(manifest.samples.labels[rows])
    )
    assert run.history[0].loss == pytest.approx(loss.item(), rel=1e-5)


def test_the_best_epoch_s_weights_and_accuracy_are_kept(split_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=6, batch_size=3, lr=0.8, momentum=0.9, schedule="constant")
    run = tune(split_folder, tmp_path / "run", config=config, seed=1)
    accuracies = [epoch.val_accuracy for epoch in run.history]
    assert accuracies[-1] < max(accuracies)
    assert run.best.epoch == 1 + accuracies.index(max(accuracies))
    card = ModelCard.read(tmp_path / "run")
    assert (card.kind, card.classes) == ("network", ("ants", "bees"))
    assert card.metrics["accuracy"] == run.report.accuracy.accuracy == max(accuracies)
    result, labels = predictions(tmp_path / "run", split_folder, "val", card.spec.view)
    assert float((result == labels).mean()) == max(accuracies)
    assert card.metrics["confusion"] == [
        [int(((labels == true) & (result == predicted_class)).sum()) for predicted_class in (0, 1)] for true in (0, 1)
    ]


@pytest.mark.parametrize("mode", ["all", "head"])
def test_the_kept_weights_are_reported_on_test(mode: Any, make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder({"train/ants": 6, "train/bees": 6, "val/ants": 2, "val/bees": 2, "test/ants": 3, "test/bees": 4})
    config = TrainConfig(epochs=5, batch_size=3, lr=0.8, schedule="constant")
    run = tune(data, tmp_path / "run", mode=mode, config=config)
    spec = ModelCard.read(tmp_path / "run").spec.view
    pixels, labels = clean_pixels(data, "test", spec)
    if mode == "all":
        result, _ = predictions(tmp_path / "run", data, "test", spec)
    else:
        result = classify(load_head(tmp_path / "run" / "head.safetensors"), trainable_backbone().embed(pixels), 3)[0]
    assert run.report.test is not None
    assert (run.report.test.n, run.report.test.accuracy) == (7, float((result == labels).mean()))
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["test"]["accuracy"] == run.report.test.accuracy
    assert f"test accuracy {run.report.test}" in str(run).splitlines()
    saved = read_predictions(tmp_path / "run", "test.csv")
    assert [(row.image.split("/")[0], row.label, row.predicted) for row in saved] == [
        ("test", ("ants", "bees")[label], ("ants", "bees")[predicted_class])
        for label, predicted_class in zip(labels, result, strict=True)
    ]
    hashes = json.loads((tmp_path / "run/model.json").read_text())["sha256"]
    assert hashes == {
        name: hashlib.sha256((tmp_path / "run" / name).read_bytes()).hexdigest()
        for name in (
            *("README.md", "training-samples.safetensors"),
            *(ModelCard.read(tmp_path / "run").file, "test.csv", "val.csv"),
        )
    }


def test_a_training_that_diverged_at_once_is_an_error_and_saves_nothing(split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as refused:
        tune(split_folder, tmp_path / "run", config=TrainConfig(epochs=3, batch_size=3, lr=1e20, schedule="constant"))
    assert str(refused.value) == (
        "training diverged in epoch 1: the loss on val is not finite. Nothing was saved. Give an --lr below "
        "1e+20, with --overwrite or another folder."
    )
    assert not (tmp_path / "run/model.json").exists()


def test_a_training_that_diverges_later_keeps_the_best_epoch_before(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=6, batch_size=3, lr=0.01, schedule="constant")
    whole = tune(split_folder, tmp_path / "whole", config=dataclasses.replace(config, epochs=2))
    begin = TrainState.begin_epoch

    def begin_or_spoil(self: TrainState, seed: int) -> Any:
        if len(self.history) == 2:
            with torch.no_grad():
                next(self.module.parameters()).fill_(float("nan"))
        return begin(self, seed)

    monkeypatch.setattr(TrainState, "begin_epoch", begin_or_spoil)
    run = tune(split_folder, tmp_path / "run", config=config)
    assert len(run.history) == 3
    assert run.best.epoch == whole.best.epoch
    assert run.report.accuracy == whole.report.accuracy
    saved = (tmp_path / f"{name}/network.safetensors" for name in ("run", "whole"))
    assert len({path.read_bytes() for path in saved}) == 1
    assert (
        f"training diverged in epoch 3 of 6: the loss on val is not finite; epoch {run.best.epoch} was saved; give "
        "a lower --lr"
    ) in run.notes


def test_run_json_holds_what_is_returned(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written.pop("config")["lr"] == CONFIG.lr
    assert written == json.loads(json.dumps(run.to_dict()))
    assert [epoch["loss"] for epoch in written["history"]] == [epoch.loss for epoch in run.history]
    assert (written["best_epoch"], written["test"]) == (run.best.epoch, None)
    assert written["accuracy"] == run.best.val_accuracy


def test_a_card_of_the_whole_run_stands_beside_its_model(split_folder: Path, tmp_path: Path) -> None:
    run = tune(split_folder, tmp_path / "run")
    text = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    (results,) = (part for part in text.split("\n") if part.startswith("| val | accuracy |"))
    accuracy = run.report.accuracy
    assert accuracy is not None
    low, high = accuracy.accuracy_low, accuracy.accuracy_high
    assert results == f"| val | accuracy | {accuracy.accuracy:.4f} | {low:.4f} to {high:.4f} | 5 |"
    assert f"Trained for 4 epochs. The weights are those of epoch {run.best.epoch}, the best one on val." in text
    assert "| lr | 0.02 |" in text
    assert "| all | 13 | 5 |" in text
    assert str(tmp_path) not in text


def test_the_card_of_a_run_that_is_not_finished_has_the_figures_of_val(split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(split_folder, tmp_path / "run", on_epoch=_interrupt)
    text = (tmp_path / "run/README.md").read_text(encoding="utf-8")
    assert "| val | accuracy |" in text
    assert "Trained for" not in text


def _interrupt(_: EpochMetrics) -> None:
    raise KeyboardInterrupt


def test_from_scratch_means_random_weights_drawn_with_the_seed(split_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "weights": "none",
        "image_size": 32,
        "config": TrainConfig(epochs=1, batch_size=5),
        "device": "cpu",
    }
    runs = {
        name: finetune(split_folder, tmp_path / name, seed=seed, **options)
        for name, seed in (("a", 1), ("again", 1), ("b", 2))
    }
    digests = {name: ModelCard.read(tmp_path / name).spec.weights_sha256 for name in runs}
    assert runs["a"].report.method == "finetune from scratch"
    weights = {name: (tmp_path / name / "network.safetensors").read_bytes() for name in runs}
    assert weights["a"] == weights["again"] != weights["b"]
    assert digests["a"] == digests["again"] != digests["b"]


def test_weights_of_a_run_may_be_taken_at_another_image_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ViT is built for one size, and the spec of features is of that one."""
    name, of_run = "timm/vit_tiny_patch16_224", {"image_size": 32, "resize_size": 36, "mean": (0.1, 0.2, 0.3)}
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=32).state_dict(), tmp_path / "w.pth")
    monkeypatch.setattr(registry, "locate", lambda *_: SimpleNamespace(preprocessing=dict(of_run)))
    backbone = load_backbone(name, weights=str(tmp_path / "w.pth"), device="cpu", image_size=64, precision="fp32")
    view = backbone.view_spec(image_size=64)
    assert (view.image_size, view.resize_size, backbone.mean) == (64, 72, (0.1, 0.2, 0.3))
    assert backbone.embed(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, backbone.dim)


def test_a_network_of_ones_own_is_not_said_to_be_trained_from_scratch(split_folder: Path, tmp_path: Path) -> None:
    backbone = trainable_backbone(weights="none")
    assert tune(split_folder, tmp_path / "run", backbone=backbone).report.method == "finetune all"


def test_a_live_head_on_random_weights_is_not_said_to_be_from_scratch(split_folder: Path, tmp_path: Path) -> None:
    assert tune(split_folder, tmp_path / "run", mode="head").report.method == "finetune head"


def test_batches_of_one_image_that_batchnorm_cannot_train_on_are_refused(split_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(epochs=2, batch_size=1)
    with pytest.raises(RunError) as caught:
        tune(split_folder, tmp_path / "run", backbone=trainable_backbone(kernel=8), config=config)
    assert str(caught.value) == (
        "BatchNorm cannot train on a batch of one image at 8 pixels. Give a larger --batch-size than 1, --batchnorm "
        "eval, or a larger --image-size."
    )


@pytest.mark.parametrize("unreadable", [0, 4])
def test_a_last_batch_of_one_image_joins_the_one_before(
    unreadable: int, split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """13 = 3 * 4 + 1; BatchNorm on maps of one place would refuse the last image by itself. Without four 9 are left."""
    sizes: list[int] = []
    forward = BackboneWithHead.forward

    def count(self: BackboneWithHead, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            sizes.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(BackboneWithHead, "forward", count)
    for number in range(unreadable):
        (split_folder / f"train/bees/00{number}.png").write_bytes(b"")
    config = TrainConfig(epochs=2, batch_size=4)
    tune(split_folder, tmp_path / "run", backbone=trainable_backbone(kernel=8), config=config)
    assert sizes == 2 * ([4, 4, 5] if not unreadable else [4, 5])


@pytest.mark.parametrize("options", [{"mode": "head"}, {"batchnorm": "eval"}])
def test_a_last_batch_of_one_image_stays_where_nothing_normalises_by_the_batch(
    options: dict[str, Any], split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live head sees the batches of `fit-head --head sgd`."""
    sizes: list[int] = []
    linear = torch.nn.Linear.forward

    def count(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            sizes.append(len(x))
        return linear(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", count)
    tune(split_folder, tmp_path / "run", config=TrainConfig(epochs=1, batch_size=4), **options)
    assert sizes == [4, 4, 4, 1]


def test_a_recipe_may_be_a_dict_of_some_fields(split_folder: Path, tmp_path: Path) -> None:
    fields = {name: value for name, value in vars(CONFIG).items() if value != getattr(TrainConfig(), name)}
    result = tune(split_folder, tmp_path / "dict", config=fields)
    assert timeless(result.history) == timeless(tune(split_folder, tmp_path / "config").history)


def test_the_former_name_of_config_is_accepted_with_a_warning(split_folder: Path, tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"^finetune\(recipe=\.\.\.\) is now finetune\(config=\.\.\.\)\.$"):
        run = finetune(split_folder, tmp_path / "run", backbone=trainable_backbone(), recipe=CONFIG)
    assert len(run.history) == CONFIG.epochs


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"rate": 0.1}, "unexpected keyword argument 'rate'"), ({"lr": 0}, "lr is 0; it must be greater than 0"),
     ({"class_weight": "even"}, "class_weight is 'even'; it must be 'balanced' or a dict"),
     ({"label_smoothing": 1}, "label_smoothing is 1; it must be 0 or greater, and less than 1")],
)  # fmt: skip
def test_a_recipe_that_is_none_names_what_there_is(fields: dict[str, Any], why: str, tmp_path: Path) -> None:
    for call, name in ((finetune, "config"), (benchmark, "config")):
        with pytest.raises(
            RunError, match=r"^the training configuration: .*\. Its fields are epochs, batch_size, lr, momentum, "
        ) as caught:
            call("photos", tmp_path / "run", **{name: fields})
        assert why in str(caught.value)
    warning = r"^benchmark\(recipe=\.\.\.\) is deprecated: use benchmark\(config=\.\.\.\)$"
    with pytest.warns(DeprecationWarning, match=warning), pytest.raises(RunError, match=r"^the training"):
        benchmark("photos", tmp_path / "run", recipe=fields)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_images_are_skipped_and_listed(split_folder: Path, tmp_path: Path) -> None:
    for name in ("train/bees/002.png", "val/ants/001.png"):
        (split_folder / name).write_bytes(b"")
    run = tune(split_folder, tmp_path / "run")
    assert [name for name, _ in run.skipped] == ["train/bees/002.png", "val/ants/001.png"]
    assert run.report.accuracy is not None
    assert run.report.accuracy.n == 4
    assert str(run).startswith("skipped train/bees/002.png: ")


def test_images_that_could_not_be_read_are_not_counted_as_worked_on(split_folder: Path, tmp_path: Path) -> None:
    (split_folder / "train/bees/002.png").write_bytes(b"")
    assert tune(split_folder, tmp_path / "run").report.images == 12 * CONFIG.epochs


def test_data_without_a_readable_val_image_is_refused(split_folder: Path, tmp_path: Path) -> None:
    for path in (split_folder / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(FeatcacheError, match="no readable val images"):
        tune(split_folder, tmp_path / "run")


def test_fp16_training_is_refused_as_its_gradients_would_underflow(split_folder: Path, tmp_path: Path) -> None:
    backbone = toy_backbone()
    backbone.precision = "fp16"
    with pytest.raises(RunError, match="fp16 gradients underflow without loss scaling"):
        finetune(split_folder, tmp_path / "run", backbone=backbone)


def test_what_waits_for_images_is_told(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.vision import loader

    read = loader.read_image
    data_fractions = []
    for seconds in (0.0, 0.05):
        monkeypatch.setattr(loader, "read_image", lambda *arguments, s=seconds: time.sleep(s) or read(*arguments))
        run = tune(split_folder, tmp_path / str(seconds), workers=1)
        data_fractions.append(run.data_share)
        assert f"waiting for images took {run.data_share:.0%} of the time" in str(run)
        assert run.to_dict()["data_share"] == run.data_share
        waited = CONFIG.epochs * 18 * seconds
        assert run.report.seconds["data"] >= 0.8 * waited
    assert 0 < data_fractions[0] < data_fractions[1] <= 1
    assert data_fractions[1] > 0.5


def test_a_compiled_network_learns_the_same(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the compiler's front; its back end takes a minute, and is not ours."""
    compile_module, compiled_modules = torch.nn.Module.compile, []
    monkeypatch.setattr(finetuning, "has_compiler", lambda _: True)
    monkeypatch.setattr(
        torch.nn.Module,
        "compile",
        lambda self: compiled_modules.append(self) or compile_module(self, backend="eager"),
    )
    backbone = trainable_backbone()
    backbone.module.dropout.p = 0.0  # the compiler draws other random numbers
    plain = tune(split_folder, tmp_path / "plain", backbone=backbone, seed=SEED)
    compiled = tune(split_folder, tmp_path / "compiled", backbone=backbone, seed=SEED, compile=True)
    np.testing.assert_allclose(
        [epoch.loss for epoch in compiled.history], [epoch.loss for epoch in plain.history], rtol=1e-4
    )
    assert len(compiled_modules) == 1
    assert compiled.report.accuracy == plain.report.accuracy
    saved_network(tmp_path / "compiled")  # the names of the weights are those of the network


def test_what_the_compiler_cannot_do_is_told_with_the_cure(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise torch._dynamo.exc.Unsupported("no such operation\nand much more")

    monkeypatch.setattr(finetuning, "has_compiler", lambda _: True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(FineTuneRun, "train", refuse)
    with pytest.raises(
        RunError, match=r"^torch.compile cannot train this network \(no such operation\)\. Drop --compile\.$"
    ) as reported:
        tune(split_folder, tmp_path / "compiled", compile=True)
    assert "\n" not in str(reported.value)
    with pytest.raises(torch._dynamo.exc.Unsupported):  # not for us to explain where nobody asked to compile
        tune(split_folder, tmp_path / "plain")


def test_a_head_alone_is_not_compiled(split_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="a head alone cannot be compiled: drop --compile, or train all layers"):
        tune(split_folder, tmp_path / "run", mode="head", compile=True)


def test_compiling_without_a_compiler_is_refused_with_the_cure(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "has_compiler", lambda _: False)
    with pytest.raises(RunError, match=r"needs a C\+\+ compiler .* Install g\+\+, or drop --compile\.$"):
        tune(split_folder, tmp_path / "run", compile=True)


def _replaced(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def test_a_checkpoint_of_which_a_bit_changed_is_not_gone_on_from(split_folder: Path, tmp_path: Path) -> None:
    """PyTorch reads the parts of its archives without a look at their checksums."""
    out = tmp_path / "run"
    tune(split_folder, out, config=TrainConfig(epochs=1))
    weight = torch.load(out / "last.pt", weights_only=True)["module"]["head.weight"].numpy().tobytes()
    _replaced(out / "last.pt", weight, bytes([weight[0] ^ 1]) + weight[1:])
    with pytest.raises(
        RunError, match=r"it is damaged: the checksum of its part \S+/data/\d+ is wrong\)\. Delete it to start again\.$"
    ):
        tune(split_folder, out, config=TrainConfig(epochs=2), resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", {}), ("history", [{"epoch": 1}]), ("module", {}), ("skipped", 7), ("best_val", {"loss": 1.0})],
)
def test_a_checkpoint_with_other_values_is_refused(
    name: str, value: object, split_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    tune(split_folder, out, config=TrainConfig(epochs=1))
    torch.save({**torch.load(out / "last.pt", weights_only=True), name: value}, out / "last.pt")
    with pytest.raises(RunError, match=r"last\.pt is not a checkpoint that can be loaded safely"):
        tune(split_folder, out, config=TrainConfig(epochs=2), resume=True)


def test_nobody_is_told_to_run_the_code_of_a_checkpoint(split_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    tune(split_folder, out, config=TrainConfig(epochs=1))
    torch.save({"config": Payload(str(tmp_path / "executed"))}, out / "last.pt")
    with pytest.raises(RunError, match=r"\(it is damaged, or would run code\)"):
        tune(split_folder, out, config=TrainConfig(epochs=1))
    assert not (tmp_path / "executed").exists()
