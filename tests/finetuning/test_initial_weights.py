"""A run that begins with a fitted head is, before any step, that head; what it may not begin with is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision import models

from commands import drop_hashes
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import build
from featcache.backbones.stages import find_stages, stage_of
from featcache.core.model_card import ModelCard
from featcache.core.specs import ExtractSpec
from featcache.data.manifest import read_manifest
from featcache.errors import BackboneError, FeatcacheError, HeadError, RunError
from featcache.extraction.extract import extract
from featcache.finetuning import finetune as finetuning
from featcache.finetuning.finetune import FineTune, finetune
from featcache.finetuning.initial_weights import InitialModel, build_initial_model, reinitialize_after
from featcache.finetuning.strategy import FineTuneStrategy
from featcache.heads.fit_head import fit_head
from featcache.heads.io import load_head, save_head
from featcache.heads.linear import LinearHead
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.metrics.predictions import read_predictions
from featcache.training.loop import EpochMetrics, TrainConfig, linear_layer
from featcache.training.network import BackboneWithHead
from featcache.vision.loader import ViewLoader
from toys import toy_backbone
from trainable import staged_backbone

MakeFolder = Callable[..., Path]
CONFIG = TrainConfig(epochs=3, batch_size=5, lr=0.002, schedule="constant")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos, a cache of them, and a head on it."""
    from commands import write_folder

    root = tmp_path_factory.mktemp("place")
    write_folder(root / "photos", {"train/ants": 8, "train/bees": 7, "val/ants": 5, "val/bees": 4})
    extract(root / "photos", root / "c.h5", backbone=staged_backbone(), views=2, dtype="float32")
    fit_head(root / "c.h5", root / "head")
    return root


def tune(site: Path, out: Path, **options: Any) -> FineTune:
    arguments = {"backbone": staged_backbone(), "config": CONFIG, "init_head": site / "head", **options}
    return finetune(arguments.pop("data", site / "photos"), out, **arguments)


def spec_of(backbone: Backbone) -> ExtractSpec:
    return backbone.extract_spec(image_size=None, augment="tutorial", seed=0, views=0, dtype="float32")


def start_with(head: Path, data: Path, backbone: Backbone, mode: Any = "all") -> InitialModel:
    spec, manifest = spec_of(backbone), read_manifest(data)
    return build_initial_model(
        backbone, spec, ViewLoader(manifest, spec.view), mode, FineTuneStrategy(init_head=str(head)), CONFIG
    )


@pytest.mark.parametrize("mode", ["all", "head"])
@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("linear", {}),
        ("lda", {}),
        ("ridge", {}),
        ("sgd", {"parameters": {"epochs": 2}}),
        ("logreg", {"scaling": "standard"}),
    ],
)
def test_before_any_step_the_network_says_what_the_head_says(
    head: str, options: dict[str, Any], mode: Any, site: Path, tmp_path: Path
) -> None:
    fit = fit_head(site / "c.h5", tmp_path / "head", head=head, **options)
    backbone = staged_backbone()
    module = start_with(tmp_path / "head", site / "photos", backbone, mode).module.eval()
    manifest = read_manifest(site / "photos")
    (batch,) = ViewLoader(manifest, spec_of(backbone).view).batches(manifest.samples.rows("val"), [0], 99)
    pixels = batch.inputs
    features = backbone.embed(pixels)
    with torch.no_grad():
        logits = module(backbone.normalise(pixels) if mode == "all" else torch.from_numpy(features))
    expected = fit.estimator.predict_proba(features)
    np.testing.assert_allclose(logits.double().softmax(1), expected, atol=1e-5)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], fit.estimator.decision_function(features), atol=1e-3)
    assert expected[:, 0].std() > 1e-4


def test_classes_that_the_head_never_saw_are_never_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder({f"{split}/{kind}": 3 for split in ("train", "val") for kind in "abc"})
    backbone = staged_backbone()
    extract(data, tmp_path / "c.h5", backbone=backbone, views=0, dtype="float32")
    fit_head(tmp_path / "c.h5", tmp_path / "head")
    coef = np.array([[1.0, -2.0, 0.5, 3.0]])
    file, content = save_head(LinearHead.from_weights(coef, np.array([0.25]), np.array([0, 2])))
    (tmp_path / "head" / file).write_bytes(content)
    drop_hashes(tmp_path / "head")
    module = start_with(tmp_path / "head", data, backbone).module.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        probabilities = module(backbone.normalise(pixels)).double().softmax(1).numpy()
    np.testing.assert_allclose(
        probabilities[:, 2], 1 / (1 + np.exp(-(backbone.embed(pixels) @ coef[0] + 0.25))), atol=1e-6
    )
    assert probabilities[:, 1].max() < 1e-40


def test_the_run_begins_where_the_head_is(site: Path, tmp_path: Path) -> None:
    card = ModelCard.read(site / "head")
    run = tune(site, tmp_path / "run")
    assert run.start is not None
    assert run.start.to_dict()["confusion"] == card.metrics["confusion"]
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (written["start"]["head"], written["start"]["accuracy"]) == (str(site / "head"), run.start.accuracy)
    assert str(run).splitlines()[0] == f"initial head {site / 'head'}: val accuracy {run.start}"
    assert (written["wise_ft"], written["tuned"]) == (None, None)
    assert tune(site, tmp_path / "run", resume=True).start == run.start


def test_a_rate_too_small_to_change_anything_ends_where_the_head_is(site: Path, tmp_path: Path) -> None:
    """So nothing but the steps moves the network: BatchNorm does not."""
    run = tune(site, tmp_path / "run", config=dataclasses.replace(CONFIG, lr=1e-30))
    val_predictions = {prediction.image: prediction.predicted for prediction in read_predictions(tmp_path / "run")}
    assert val_predictions == {prediction.image: prediction.predicted for prediction in read_predictions(site / "head")}
    assert run.report.accuracy == run.start
    drifted = tune(site, tmp_path / "b", config=dataclasses.replace(CONFIG, lr=1e-12), batchnorm="train")
    losses = [epoch.val_loss for epoch in run.history]
    assert max(losses) - min(losses) < 1e-6 < abs(drifted.history[-1].val_loss - losses[0])


def test_a_plain_run_has_no_start(site: Path, tmp_path: Path) -> None:
    run = tune(site, tmp_path / "run", init_head=None)
    assert (run.start, run.to_dict()["start"]) == (None, None)
    assert str(run).startswith("3 epochs in ")


@pytest.mark.parametrize(("init", "lr"), [(True, 1e-4), (False, 0.01)])
def test_the_rate_is_low_where_none_is_given(init: bool, lr: float, site: Path, tmp_path: Path) -> None:
    options = {} if init else {"init_head": None}

    class StopError(Exception):
        pass

    def stop(epoch: EpochMetrics) -> None:
        assert epoch.lr == lr
        raise StopError

    with pytest.raises(StopError):
        tune(site, tmp_path / "run", config=None, on_epoch=stop, **options)


@pytest.mark.parametrize("batchnorm", [None, "eval", "train"])
def test_statistics_stay_below_a_fitted_head_unless_asked(batchnorm: Any, site: Path, tmp_path: Path) -> None:
    before = staged_backbone().module.state_dict()
    tune(site, tmp_path / "run", batchnorm=batchnorm)
    after = load_file(tmp_path / "run" / "network.safetensors")
    for name, value in before.items():
        same = torch.equal(after[f"body.{name}"], value)
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert same == (batchnorm != "train"), name
        else:
            assert not same, name


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("unfreeze", ["last-stage", 2])
def test_frozen_stages_are_saved_as_they_were(init: bool, unfreeze: Any, site: Path, tmp_path: Path) -> None:
    before = staged_backbone().module.state_dict()
    tune(site, tmp_path / "run", unfreeze=unfreeze, **({} if init else {"init_head": None}))
    after = load_file(tmp_path / "run" / "network.safetensors")
    frozen = ("stem", "blocks.0", "blocks.1") if unfreeze == "last-stage" else ("stem", "blocks.0")
    for name, value in before.items():
        if name.startswith(frozen) or (init and "running" in name) or (init and "tracked" in name):
            assert torch.equal(after[f"body.{name}"], value), name
        else:
            assert not torch.equal(after[f"body.{name}"], value), name


def test_a_steep_decay_lets_the_head_alone_learn(site: Path, tmp_path: Path) -> None:
    origin = start_with(site / "head", site / "photos", staged_backbone()).copy_weights()
    tune(site, tmp_path / "run", layer_decay=1e-9)
    for name, value in load_file(tmp_path / "run" / "network.safetensors").items():
        assert torch.allclose(value, origin[name], rtol=0, atol=1e-6) == name.startswith("body."), name


class StopError(Exception):
    pass


def stop_after(number: int) -> Callable[[EpochMetrics], None]:
    def stop(epoch: EpochMetrics) -> None:
        if epoch.epoch == number:
            raise StopError

    return stop


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wise_ft": 0.3},
        {"layer_decay": 0.5, "unfreeze": 2},
        {"init_head": None, "unfreeze": 1, "layer_decay": 0.7},
        {"mode": "head"},
    ],
)
def test_an_interrupted_run_resumes_to_the_same(options: dict[str, Any], site: Path, tmp_path: Path) -> None:
    whole = tune(site, tmp_path / "whole", **options)
    with pytest.raises(StopError):
        tune(site, tmp_path / "cut", on_epoch=stop_after(2), **options)
    result = tune(site, tmp_path / "cut", resume=True, **options)
    again = tune(site, tmp_path / "cut", resume=True, **options)
    file = ModelCard.read(tmp_path / "whole").file
    for name in (file, "val.csv", "model.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    for run in (result, again):
        assert (run.start, run.tuned, run.report.accuracy) == (whole.start, whole.tuned, whole.report.accuracy)
        assert [epoch.val_loss for epoch in run.history] == [epoch.val_loss for epoch in whole.history]


def test_averaged_weights_lie_between_the_start_and_the_best(
    make_folder: MakeFolder, site: Path, tmp_path: Path
) -> None:
    origin = start_with(site / "head", site / "photos", staged_backbone()).copy_weights()
    plain = tune(site, tmp_path / "plain", batchnorm="train")
    best = load_file(tmp_path / "plain" / "network.safetensors")
    for alpha in (0.0, 0.25, 1.0):
        out = tmp_path / str(alpha)
        run = tune(site, out, wise_ft=alpha, batchnorm="train")
        for name, value in load_file(out / "network.safetensors").items():
            expected = (1 - alpha) * origin[name] + alpha * best[name] if value.is_floating_point() else best[name]
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-7)
            assert not value.is_floating_point() or not torch.equal(origin[name], best[name]), name
        assert (run.tuned, run.start) == (plain.report.accuracy, plain.start)
        val_predictions = read_predictions(out)
        assert np.mean([prediction.right for prediction in val_predictions]) == run.report.accuracy.accuracy  # type: ignore[union-attr]
        assert ModelCard.read(out).metrics == json.loads(json.dumps(run.report.accuracy.to_dict()))  # type: ignore[union-attr]
        assert f"saved {alpha:g} of these weights plus {1 - alpha:g} of the initial ones (WiSE-FT): " in str(run)
        written = json.loads((out / "run.json").read_text())
        assert (written["wise_ft"], written["tuned"]["accuracy"]) == (alpha, plain.best.val_accuracy)
    assert run.report.accuracy == plain.report.accuracy
    zero = {prediction.image: prediction.predicted for prediction in read_predictions(tmp_path / "0.0")}
    assert zero == {prediction.image: prediction.predicted for prediction in read_predictions(site / "head")}


def test_what_is_kept_is_what_test_is_evaluated_on(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder({f"{split}/{kind}": 6 for split in ("train", "val", "test") for kind in ("ants", "bees")})
    extract(data, tmp_path / "c.h5", backbone=staged_backbone(), views=0, dtype="float32")
    fit = fit_head(tmp_path / "c.h5", tmp_path / "head", head="linear", parameters={"C": 0.01})
    config = dataclasses.replace(CONFIG, lr=1.0)
    run = tune(tmp_path, tmp_path / "run", data=data, wise_ft=0.0, config=config, batchnorm="train")
    assert run.report.test is not None
    assert fit.report.test is not None
    assert run.report.test.to_dict()["confusion"] == fit.report.test.to_dict()["confusion"]


def _resnet18() -> torch.nn.Module:
    return build("resnet18", "none", 5).module


@pytest.mark.parametrize("stage", ["layer1", "layer3", "layer4"])
def test_what_lies_behind_a_stage_is_drawn_as_from_scratch(stage: str) -> None:
    network_after, drawn = (models.resnet18(), build("resnet18", "none", 5)[0])
    network_after.fc = torch.nn.Identity()
    before = {name: value.clone() for name, value in network_after.state_dict().items()}
    reinitialize_after(network_after, stage, ["layer1", "layer2", "layer3", "layer4"], "resnet18", _resnet18)
    behind = ("layer2", "layer3", "layer4")[("layer1", "layer2", "layer3", "layer4").index(stage) :]
    new = drawn.state_dict()
    for name, value in network_after.state_dict().items():
        assert torch.equal(value, new[name] if name.startswith(behind) else before[name]), name


def test_a_run_that_reuses_some_stages(split_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "w.pth")
    options: dict[str, Any] = {"backbone": "mobilenet_v3_small", "weights": str(tmp_path / "w.pth"), "image_size": 64}
    backbone = load_backbone("mobilenet_v3_small", weights=str(tmp_path / "w.pth"), device="cpu")
    stages = find_stages(backbone.module, 64)
    config = TrainConfig(epochs=1, batch_size=7, lr=1e-12, schedule="constant")
    finetune(split_folder, tmp_path / "run", reuse_until=stages[1], batchnorm="eval", seed=3, config=config, **options)
    result = load_file(tmp_path / "run" / "network.safetensors")
    drawn = build("mobilenet_v3_small", "none", 3)[0].state_dict()
    arguments = backbone.module.state_dict()
    behind = {name for name, stage in stage_of(backbone.module, stages).items() if stage > 1}
    statistics = {name for name in behind if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert statistics
    for name in statistics:  # of random weights nothing is known yet
        assert not torch.equal(result[f"body.{name}"], drawn[name]), name
    for name in arguments.keys() - statistics:
        expected, other = (drawn, arguments) if name in behind else (arguments, drawn)
        torch.testing.assert_close(result[f"body.{name}"], expected[name], rtol=0, atol=1e-7)
        assert arguments[name].ndim < 4 or not torch.allclose(other[name], expected[name], atol=1e-3), name
    with pytest.raises(RunError) as caught:
        finetune(split_folder, tmp_path / "b", reuse_until="layer9", config=config, **options)
    assert str(caught.value) == (
        f"--reuse-until layer9: mobilenet_v3_small has the stages {', '.join(stages)}. Give the last one to keep, or "
        "--init scratch to keep none."
    )
    with pytest.raises(
        RunError, match=f"leaves {len(stages) - 2} stages with random weights, and --unfreeze 1 would freeze some"
    ):
        finetune(split_folder, tmp_path / "c", reuse_until=stages[1], unfreeze=1, config=config, **options)


def test_a_network_of_one_s_own_cannot_be_drawn_anew(site: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="there is no backbone 'staged'"):
        tune(site, tmp_path / "run", init_head=None, reuse_until="blocks.1")
    with pytest.raises(
        BackboneError, match="this network is not the resnet18 that featcache builds: drop --reuse-until"
    ):
        reinitialize_after(models.resnet34(), "layer1", ["layer1", "layer2"], "resnet18", _resnet18)


@pytest.mark.parametrize("options", [{"unfreeze": 1}, {"layer_decay": 0.5}, {"reuse_until": "conv"}])
def test_a_network_without_stages_is_said_to_have_none(options: dict[str, Any], site: Path, tmp_path: Path) -> None:
    named = f"--{next(iter(options)).replace('_', '-')}"
    with pytest.raises(RunError) as caught:
        tune(site, tmp_path / "run", backbone=toy_backbone(), init_head=None, **options)
    assert str(caught.value) == f"toy has no stages, which {named} needs: drop it"


def refused(site: Path, out: Path, **options: Any) -> str:
    with pytest.raises(FeatcacheError) as caught:
        tune(site, out, **options)
    assert not (out / "last.pt").exists()
    return str(caught.value)


def test_a_head_of_another_split_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder({"ants": 12, "bees": 12})
    extract(data, tmp_path / "c.h5", backbone=staged_backbone(), views=0, dtype="float32")
    fit_head(tmp_path / "c.h5", tmp_path / "head")
    assert tune(tmp_path, tmp_path / "same", data=data).start is not None
    message = refused(tmp_path, tmp_path / "other", data=data, split_seed=1)
    current_val, head_val = ({read_manifest(data, seed=seed).samples.ids[row] for row in
                     read_manifest(data, seed=seed).samples.rows("val")} for seed in (1, 0))  # fmt: skip
    new, gone = sorted(current_val - head_val), sorted(head_val - current_val)
    assert message == (
        f"{tmp_path / 'head'} was fitted on another split: {len(new)} of the val samples here are not in the "
        f"head's val (for example {new[0]}); {len(gone)} of the head's val samples are not in val here "
        f"(for example {gone[0]}). "
        "If it was fitted on samples of val, its accuracy on val means nothing. Give the --val-fraction and "
        "--split-seed of its cache, or fit a head on a cache of this split."
    )


def test_a_val_image_that_nobody_can_read_is_no_other_split(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = make_folder({f"{split}/{kind}": 4 for split in ("train", "val") for kind in ("ants", "bees")})
    (data / "val/ants/001.png").write_bytes(b"broken")
    extract(data, tmp_path / "c.h5", backbone=staged_backbone(), views=0, dtype="float32")
    fit_head(tmp_path / "c.h5", tmp_path / "head")
    run = tune(tmp_path, tmp_path / "run", data=data)
    assert [name for name, _ in run.skipped] == ["val/ants/001.png"]
    shutil.copy(data / "val/ants/000.png", data / "val/ants/001.png")
    assert "1 of the val samples here are not in the head's val (for example val/ants/001.png)." in refused(
        tmp_path, tmp_path / "b", data=data
    )


def test_a_head_without_its_predictions_is_refused(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "head", tmp_path / "head")
    (tmp_path / "head" / "val.csv").unlink()
    assert "has no val.csv" in refused(site, tmp_path / "run", init_head=tmp_path / "head")


def other_net(**options: Any) -> Backbone:
    return Backbone(staged_backbone().module, **{"name": "staged", "image_size": 16, "resize_size": 18, **options})


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"backbone": other_net(name="else")}, "backbone=staged, here else"),
        ({"backbone": other_net(resize_size=20)}, "resize_size=18, here 20"),
        ({"image_size": 32}, "image_size=16, here 32; resize_size=18, here 36"),
        ({"backbone": other_net(mean=(0.5, 0.5, 0.5))}, "mean=[0.485, 0.456, 0.406], here [0.5, 0.5, 0.5]"),
        ({"backbone": other_net(std=(0.5, 0.5, 0.5))}, "std=[0.229, 0.224, 0.225], here [0.5, 0.5, 0.5]"),
        ({"backbone": other_net(interpolation="bicubic")}, "interpolation=bilinear, here bicubic"),
    ],
)
def test_a_head_on_other_features_is_refused(options: dict[str, Any], phrase: str, site: Path, tmp_path: Path) -> None:
    message = refused(site, tmp_path / "run", **options)
    cure = "Use the same network and data, or fit a head on a cache of these."
    assert message == f"{site / 'head'} was fitted with {phrase}. {cure}"


def test_a_head_on_other_weights_is_refused(site: Path, tmp_path: Path) -> None:
    net = staged_backbone().trainable_module()
    with torch.no_grad():
        net.stem.bias.add_(1)  # type: ignore[union-attr,operator]
    other = Backbone(net, name="staged", image_size=16, resize_size=18)
    current_hash, fitted_hash = other.weights_sha256[:12], staged_backbone().weights_sha256[:12]
    assert f"was fitted with weights={fitted_hash}, here {current_hash}. " in refused(
        site, tmp_path / "run", backbone=other
    )


def test_a_head_of_other_classes_is_refused(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "photos", tmp_path / "photos")
    for split in ("train", "val"):
        (tmp_path / "photos" / split / "bees").rename(tmp_path / "photos" / split / "wasps")
    message = refused(site, tmp_path / "run", data=tmp_path / "photos")
    assert "was fitted with classes=ants, bees, here ants, wasps. " in message


@pytest.mark.parametrize(
    ("head", "options"), [("knn", {}), ("sklearn.naive_bayes.GaussianNB", {}), ("logreg", {"scaling": "l2"})]
)
def test_a_head_that_is_no_linear_layer_is_refused(
    head: str, options: dict[str, Any], site: Path, tmp_path: Path
) -> None:
    fit_head(site / "c.h5", tmp_path / "head", head=head, **options)
    assert f"holds a head {head}, which is not a linear layer with probabilities" in refused(
        site, tmp_path / "run", init_head=tmp_path / "head"
    )


def test_a_head_on_another_layer_is_refused(site: Path, tmp_path: Path) -> None:
    layers = other_net(layers=("penultimate", "blocks.1"))
    extract(site / "photos", tmp_path / "c.h5", backbone=layers, views=0)
    fit_head(tmp_path / "c.h5", tmp_path / "head", layer="blocks.1")
    assert "was fitted on blocks.1; the head of a network uses the layer penultimate alone." in refused(
        site, tmp_path / "run", init_head=tmp_path / "head"
    )


def test_a_run_and_a_folder_of_nothing_are_no_heads(site: Path, tmp_path: Path) -> None:
    tune(site, tmp_path / "run")
    message = refused(site, tmp_path / "b", init_head=tmp_path / "run")
    assert message.startswith(f"{tmp_path / 'run'} holds a fine-tuned network; --init-head takes")
    with pytest.raises(HeadError, match=r"is not a saved model: it has no model\.json"):
        tune(site, tmp_path / "c", init_head=tmp_path / "nothing")


def test_a_head_with_other_features_than_its_card_says_is_refused(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "head", tmp_path / "head")
    file, content = save_head(LinearHead.from_weights(np.ones((1, 9)), np.zeros(1), np.arange(2)))
    (tmp_path / "head" / file).write_bytes(content)
    drop_hashes(tmp_path / "head")
    assert "is damaged: its head does not map 4 features to 2 classes" in refused(
        site, tmp_path / "run", init_head=tmp_path / "head"
    )


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_head_of_several_labels_under_the_card_of_one_is_refused(outputs: int, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site / "head", tmp_path / "head")
    file, content = save_head(OneVsRestHead.from_weights(np.ones((outputs, 4)), np.zeros(outputs)))
    (tmp_path / "head" / file).write_bytes(content)
    drop_hashes(tmp_path / "head")
    assert "is damaged: its head does not map 4 features to 2 classes" in refused(
        site, tmp_path / "run", init_head=tmp_path / "head"
    )


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"unfreeze": 1}, "unfreeze=all, you asked for 1"),
        ({"layer_decay": 0.5}, "layer_decay=1.0, you asked for 0.5"),
        ({"batchnorm": "train"}, "batchnorm=eval, you asked for train"),
        ({"wise_ft": 0.5}, "wise_ft=None, you asked for 0.5"),
    ],
)
def test_resuming_with_other_plans_is_refused(options: dict[str, Any], phrase: str, site: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        tune(site, tmp_path / "run", on_epoch=stop_after(1))
    with pytest.raises(RunError) as caught:
        tune(site, tmp_path / "run", resume=True, **options)
    assert f"was run with {phrase}. Resume with the same settings" in str(caught.value)


def test_resuming_needs_the_same_head_wherever_it_lies(site: Path, tmp_path: Path) -> None:
    whole = tune(site, tmp_path / "whole")
    with pytest.raises(StopError):
        tune(site, tmp_path / "run", on_epoch=stop_after(1))
    fit_head(site / "c.h5", tmp_path / "other", head="linear", parameters={"C": 0.01})
    with pytest.raises(RunError) as caught:
        tune(site, tmp_path / "run", resume=True, init_head=tmp_path / "other")
    assert str(caught.value) == (
        f"the head in {tmp_path / 'other'} is not the head that {tmp_path / 'run'} began with: it was fitted again, "
        "or is in another folder. Resume with that head, or give another folder to begin with this head."
    )
    with pytest.raises(RunError, match=r"run began with a fitted head\. Resume with --init-head and that head, or"):
        tune(site, tmp_path / "run", resume=True, init_head=None)
    with pytest.raises(StopError):
        tune(site, tmp_path / "plain", init_head=None, on_epoch=stop_after(1))
    with pytest.raises(RunError, match=r"plain began without a fitted head\. Resume without --init-head, or"):
        tune(site, tmp_path / "plain", resume=True)
    shutil.copytree(site / "head", tmp_path / "copy")
    result = tune(site, tmp_path / "run", resume=True, init_head=tmp_path / "copy")
    assert result.report.accuracy == whole.report.accuracy


def test_a_checkpoint_from_before_there_were_plans_is_of_a_plain_run(site: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        tune(site, tmp_path / "run", init_head=None, on_epoch=stop_after(1))
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    config = json.loads(state["config"])
    for name in FineTuneStrategy().config():
        del config[name]
    del state["first"]
    torch.save({**state, "config": json.dumps(config)}, tmp_path / "run" / "last.pt")
    with pytest.raises(RunError, match="unfreeze=all, you asked for 1"):
        tune(site, tmp_path / "run", init_head=None, unfreeze=1, resume=True)
    assert len(tune(site, tmp_path / "run", init_head=None, resume=True).history) == 3


def test_a_head_alone_goes_on_from_a_fitted_one(site: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, lr=1e-12)
    run = tune(site, tmp_path / "run", mode="head", config=config)
    assert run.report.accuracy == run.start
    first, last = (load_head(folder / "head.safetensors") for folder in (site / "head", tmp_path / "run"))
    np.testing.assert_allclose(last.coef_, first.coef_, rtol=1e-5, atol=1e-9)


def test_a_run_worse_than_its_start_says_so(site: Path, tmp_path: Path) -> None:
    run = tune(site, tmp_path / "run")
    assert run.start is not None
    better = dataclasses.replace(run, start=dataclasses.replace(run.start, accuracy=1.1))
    line = "this is below the initial head: use that head, or lower --lr"
    assert line in str(better).splitlines()
    assert line not in str(dataclasses.replace(run, start=dataclasses.replace(run.start, accuracy=0.0)))


def test_a_compiled_network_learns_the_same(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the compiler's front; without dropout, for which it draws other random numbers."""
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(finetuning, "has_compiler", lambda _: True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="eager"))
    runs = []
    for compiled in (False, True):
        backbone = staged_backbone()
        for module in backbone.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"unfreeze": 2, "layer_decay": 0.5, "wise_ft": 0.5}
        runs.append(tune(site, tmp_path / str(compiled), backbone=backbone, compile=compiled, **options))
    plain, compiled_run = runs
    assert [e.loss for e in compiled_run.history] == pytest.approx([e.loss for e in plain.history], rel=1e-4)
    assert compiled_run.start == plain.start
    assert compiled_run.report.accuracy == plain.report.accuracy


def test_mixing_counts_nothing_twice() -> None:
    nets = [BackboneWithHead(staged_backbone().trainable_module(), linear_layer(4, 2, seed)) for seed in (1, 2)]
    for seed, net in enumerate(nets):
        torch.manual_seed(seed)
        for _ in range(seed + 1):
            net.train()(torch.randn(4, 3, 16, 16))
    start = {name: value.clone() for name, value in nets[0].state_dict().items()}
    end = {name: value.clone() for name, value in nets[1].state_dict().items()}
    nets[1].interpolate_weights(start, 0.25)
    for name, value in nets[1].state_dict().items():
        if not value.is_floating_point():
            assert torch.equal(value, end[name])
            assert not torch.equal(start[name], end[name])
        else:
            torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * end[name])
