from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import torch
from torchvision import models

import featcache
from commands import SMALL, as_json, done, featcache_cli, refused
from featcache.finetuning.presets import PRESETS
from featcache.finetuning.strategy import LP_FT_DEFAULTS
from featcache.reports import style as drawing
from featcache.training.loop import TrainConfig
from featcache_cli.finetune import GROUPS, command

NETWORK = ("--backbone", "mobilenet_v3_small", "--image-size", 32, "--workers", 2)
QUICK = (*NETWORK, "--init", "scratch", "--epochs", 2, "--batch-size", 5, "--train", "head")
LINE = re.compile(
    r"epoch +(?P<epoch>\d+)  lr (?P<lr>\S+)  loss (?P<loss>\d+\.\d{4})  acc (?P<acc>[01]\.\d{4})  "
    r"val-loss (?P<val_loss>\d+\.\d{4})  val-acc (?P<val_acc>[01]\.\d{4})  \d+\.\d s"
)


@pytest.fixture(scope="module")
def run(data: Path) -> tuple[Path, str, str]:
    out = data.parent / "run"
    result = featcache_cli("finetune", data, "-o", out, *QUICK)
    assert result.exit_code == 0, result.output
    return out, result.stdout, result.stderr


def test_an_epoch_is_a_line(run: tuple[Path, str, str]) -> None:
    out, text, progress = run
    lines = text.splitlines()
    history = json.loads((out / "run.json").read_text())["history"]
    assert len(history) == 2
    for line, epoch in zip(lines, history, strict=False):
        found = LINE.fullmatch(line)
        assert found
        assert (int(found["epoch"]), found["lr"]) == (epoch["epoch"], "0.01")
        assert found["loss"] == f"{epoch['loss']:.4f}"
        assert found["acc"] == f"{epoch['accuracy']:.4f}"
        assert found["val_loss"] == f"{epoch['val_loss']:.4f}"
        assert found["val_acc"] == f"{epoch['val_accuracy']:.4f}"
    best = max(history, key=lambda epoch: epoch["val_accuracy"])
    assert lines[2].startswith("2 epochs in ")
    assert f"best val accuracy {best['val_accuracy']:.4f} (95 % interval " in lines[2]
    assert lines[2].endswith(f"n = 5) in epoch {best['epoch']}")
    assert lines[3] == "computed in fp32 on cpu; TF32: no; torch.compile: no"
    assert lines[4].startswith("waiting for images took ")
    assert lines[5:] == [f"saved in {out}"]
    assert "photos: 2 classes; train 13 (ants 7, bees 6), val 5 (ants 3, bees 2)" in progress


def test_the_folder_holds_the_model_its_checkpoint_and_its_curves(run: tuple[Path, str, str]) -> None:
    assert sorted(path.name for path in run[0].iterdir()) == [
        "README.md", "curves.png", "head.safetensors", "last.csv", "last.pt", "model.json", "run.json",
        "training-samples.safetensors", "val.csv"]  # fmt: skip


def test_the_curves_are_those_that_show_draws(run: tuple[Path, str, str], tmp_path: Path) -> None:
    done("show", "history", run[0], "-o", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes() == (run[0] / "curves.png").read_bytes()


def test_the_predictions_beside_it_are_those_of_its_accuracy(run: tuple[Path, str, str], data: Path) -> None:
    with (run[0] / "val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(
        path.relative_to(data).as_posix() for path in (data / "val").rglob("*.png")
    )
    assert [row["label"] for row in rows] == [row["image"].split("/")[1] for row in rows]
    confusion = json.loads((run[0] / "model.json").read_text())["metrics"]["confusion"]
    found = Counter((row["label"], row["predicted"]) for row in rows)
    assert [[found[label, guess] for guess in ("ants", "bees")] for label in ("ants", "bees")] == confusion


def test_json_is_one_object_with_the_library_s_numbers(run: tuple[Path, str, str], data: Path, tmp_path: Path) -> None:
    found = as_json("finetune", data, "-o", tmp_path / "run", *QUICK)
    first = json.loads((run[0] / "run.json").read_text())
    for name in ("lr", "loss", "accuracy", "val_loss", "val_accuracy"):
        assert [epoch[name] for epoch in found["history"]] == pytest.approx([epoch[name] for epoch in first["history"]])
    assert found["path"] == str(tmp_path / "run")
    assert (found["n"], found["images"], found["best_epoch"]) == (5, 26, first["best_epoch"])


def test_a_run_is_not_overwritten_and_resumed_with_its_own_settings_only(
    run: tuple[Path, str, str], data: Path
) -> None:
    out, text, _ = run
    weights = (out / "head.safetensors").read_bytes()
    assert done("finetune", data, "-o", out, *QUICK).splitlines()[:2] == text.splitlines()[:2]
    assert refused("finetune", data, "-o", out, *QUICK, "--resume", "--lr", 0.5, "--batch-size", 4) == (
        f"{out} was run with batch_size=5, you asked for 4; lr=0.01, you asked for 0.5. "
        "Resume with the same settings, give another folder, or begin again with --overwrite."
    )
    assert done("finetune", data, "-o", out, *QUICK, "--resume").splitlines()[:2] == text.splitlines()[:2]
    assert (out / "head.safetensors").read_bytes() == weights


def test_a_folder_with_other_things_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("finetune", data, "-o", tmp_path, *QUICK) == (
        f"{tmp_path} holds other files and no model.json. Give an empty or a new folder."
    )


def test_batches_of_one_are_explained(data: Path, tmp_path: Path) -> None:
    message = refused("finetune", data, "-o", tmp_path / "run", *NETWORK, "--init", "scratch", "--batch-size", 1)
    assert message == (
        "BatchNorm cannot train on a batch of one image at 32 pixels. Give a larger --batch-size than 1, --batchnorm "
        "eval, or a larger --image-size."
    )


@pytest.mark.parametrize(
    "arguments",
    [("--backbone", "resnet19", "--init", "scratch"), ("--weights", "gone.pth", "--backbone", "resnet18")],
)
def test_a_bad_network_is_refused(arguments: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    named = "resnet19" if "resnet19" in arguments else "gone.pth"
    assert re.match(rf"there is no (backbone|weights file) .*{named}", refused(
        "finetune", data, "-o", tmp_path / "run", *arguments))  # fmt: skip


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library is called with."""
    seen: dict[str, Any] = {}

    def finetune(**given: Any) -> SimpleNamespace:
        seen.update(given)
        return SimpleNamespace(history=[], path=Path("run"))

    monkeypatch.setitem(vars(featcache), "finetune", finetune)
    monkeypatch.setattr(drawing, "save", lambda *_: None)
    return seen


def _asked(got: dict[str, Any], *arguments: object) -> dict[str, Any]:
    got.clear()
    done("finetune", "photos", "-o", "run", *arguments)
    return got


TUTORIALS = {
    "pytorch-tutorial": ("resnet18", "tutorial", TrainConfig(25, 4, 1e-3, 0.9, 0.0, "sgd", "step", 7, 0.1)),
    "gluon-hotdog": ("resnet18", "crop", TrainConfig(10, 64, 0.01, 0.0, 1e-3, "sgd", "constant")),
    "mindspore-canidae": ("resnet50", "tutorial", TrainConfig(20, 24, 1e-3, 0.9, 0.0, "sgd", "constant")),
}


def test_every_preset_is_offered() -> None:
    offered = next(param.type for param in command.params if param.name == "preset")
    assert isinstance(offered, click.Choice)
    assert set(offered.choices) == set(PRESETS) == set(TUTORIALS)


@pytest.mark.parametrize("preset", TUTORIALS)
def test_a_preset_is_the_tutorial_s_and_options_override_it(preset: str, got: dict[str, Any]) -> None:
    asked = _asked(got, "--preset", preset)
    assert (asked["backbone"], asked["augment"], asked["config"]) == TUTORIALS[preset]
    assert (asked["mode"], asked["weights"]) == ("all", "pretrained")
    asked = _asked(got, "--preset", preset, "--lr", 0.3, "--epochs", 2, "--backbone", "vgg11", "--augment", "none",
                   "--momentum", 0, "--optimizer", "adamw", "--schedule", "cosine")  # fmt: skip
    assert (asked["backbone"], asked["augment"]) == ("vgg11", "none")
    recipe = TUTORIALS[preset][2]
    assert asked["config"] == TrainConfig(2, recipe.batch_size, 0.3, 0.0, recipe.weight_decay, "adamw", "cosine",
                                     recipe.step_size, recipe.gamma)  # fmt: skip


@pytest.mark.parametrize(("preset", "lr"), [("pytorch-tutorial", 1e-3), ("mindspore-canidae", 0.1)])
def test_a_preset_has_a_rate_for_the_head_alone(preset: str, lr: float, got: dict[str, Any]) -> None:
    asked = _asked(got, "--preset", preset, "--train", "head")
    assert (asked["mode"], asked["config"].lr) == ("head", lr)


def test_the_defaults_are_in_the_help(got: dict[str, Any]) -> None:
    asked = _asked(got)
    assert asked["config"] == {}
    assert not {"augment", "backbone"} & asked.keys()  # the library's own
    text = " ".join(done("finetune", "--help").split())
    assert (
        "[default: gentle for the views of a cache, word-dropout for those of texts, tutorial for live training" in text
    )
    recipe = TrainConfig()
    for name in ("epochs", "lr", "momentum", "weight_decay", "optimizer", "batch_size"):
        value = getattr(recipe, name)
        shown = f"{value:g}" if isinstance(value, float) else value
        assert re.search(rf"--{name.replace('_', '-')} .*?\[default: {shown}[;\]]", text), name
    assert f"[default: {recipe.schedule};" in text
    assert (
        f"After how many epochs --schedule step divides by {1 / recipe.gamma:g}. [default: {recipe.step_size}" in text
    )


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [((), "pretrained"), (("--init", "scratch"), "none"), (("--weights", "own.pth"), "own.pth")],
)
def test_where_the_weights_come_from(arguments: tuple[str, ...], weights: str, got: dict[str, Any]) -> None:
    assert _asked(got, *arguments)["weights"] == weights


def test_scratch_and_a_weights_file_contradict_each_other(got: dict[str, Any]) -> None:
    result = featcache_cli("finetune", "photos", "-o", "run", "--init", "scratch", "--weights", "own.pth")
    assert result.exit_code in (1, 2)
    assert got == {}


def test_scratch_and_a_network_of_ones_own_contradict_each_other(got: dict[str, Any]) -> None:
    message = refused("finetune", "photos", "-o", "run", "--backbone", "own:net", "--init", "scratch", status=2)
    assert "own:net returns a network with its own weights: drop --init scratch" in message
    assert got == {}


def test_a_place_of_timms_networks_is_no_factory(got: dict[str, Any]) -> None:
    assert _asked(got, "--backbone", "hf-hub:user/network")["backbone"] == "hf-hub:user/network"


def test_scratch_draws_the_weights_with_the_seed(run: tuple[Path, str, str]) -> None:
    card = json.loads((run[0] / "model.json").read_text())
    assert card["weights"] == "none"
    drawn = featcache.load_backbone("mobilenet_v3_small", weights="none", seed=0).weights_sha256
    assert card["spec"]["weights_sha256"] == drawn


def test_every_option_reaches_the_library(got: dict[str, Any]) -> None:
    asked = _asked(got, "--image-size", 96, "--workers", 3, "--device", "cpu", "--deterministic",
                   "--precision", "bf16", "--seed", 4,
                   "--val-fraction", 0.3, "--split-seed", 9, "--resume", "--weight-decay", 0.1,
                   "--batch-size", 7, "--compile", "--image-cache", "i.h5", "--class-weight", "ants=3,bees=0.5",
                   "--label-smoothing", 0.1, "--patience", 2, "--log", "jsonl", "--log", "tensorboard")  # fmt: skip
    assert callable(asked.pop("progress"))
    assert callable(asked.pop("on_epoch"))
    assert callable(asked.pop("on_note"))
    assert asked.pop("process_group").size == 1
    assert asked == {
        "data": "photos", "out": "run", "weights": "pretrained", "mode": "all",
        "config": {
            "batch_size": 7, "weight_decay": 0.1, "class_weight": {"ants": 3.0, "bees": 0.5}, "label_smoothing": 0.1,
            "patience": 2,
        }, "image_size": 96, "workers": 3,
        "device": "cpu", "deterministic": True, "precision": "bf16", "seed": 4, "val_fraction": 0.3, "split_seed": 9,
        "allow_leak": False, "max_pixels": 178_956_970, "compile": True, "image_cache": "i.h5",
        "resume": True, "skip_missing": False, "overwrite": False, "log": ("jsonl", "tensorboard")}  # fmt: skip


PLAN = {
    "init_head": ("--init-head", "head", "head"),
    "reuse_until": ("--reuse-until", "layer2", "layer2"),
    "unfreeze": ("--unfreeze", "2", 2),
    "layer_decay": ("--layer-decay", "0.7", 0.7),
    "batchnorm": ("--batchnorm", "eval", "eval"),
    "wise_ft": ("--wise-ft", "0.5", 0.5),
}


def test_every_option_of_a_plan_reaches_the_library_and_none_does_unasked(got: dict[str, Any]) -> None:
    assert not PLAN.keys() & _asked(got).keys()
    asked = _asked(got, *(text for option, text, _ in PLAN.values() for text in (option, text)))
    assert {name: asked[name] for name in PLAN} == {name: value for name, (_, _, value) in PLAN.items()}
    assert asked["config"] == {}
    assert [_asked(got, "--unfreeze", text)["unfreeze"] for text in ("all", "last-stage", "1")] == [
        "all", "last-stage", 1]  # fmt: skip


def test_the_help_names_every_option_once_in_a_group() -> None:
    text = done("finetune", "--help")
    for heading in ("Options", *GROUPS):
        assert f"\n{heading}:\n" in text
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert {name for names in GROUPS.values() for name in names} < {option.name for option in options}
    for option in options:
        assert len(re.findall(rf"^  (?:-\w, )?{option.opts[-1]}\b(?!-)", text, re.MULTILINE)) == 1, option.name


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (
            ("--init", "scratch", "--init-head", "head"),
            "--init scratch has no pretrained weights, so --init-head has no effect: ",
        ),
        (("--train", "head", "--unfreeze", 1), "so --unfreeze has no effect: drop one of the two"),
        (("--wise-ft", 0.5), "add --init-head"),
        (("--unfreeze", "some"), "--unfreeze is some; it must be all, last-stage"),
        (("--init-head", "imagenet:antt,bee"), "ImageNet has no class 'antt'. Close are ant, "),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    arguments: tuple[object, ...], phrase: str, data: Path, tmp_path: Path
) -> None:
    assert phrase in refused("finetune", data, "-o", tmp_path / "run", *arguments)


def test_a_run_begins_with_the_head_of_a_cache(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small().state_dict(), tmp_path / "w.pth")
    network = (*NETWORK, "--weights", tmp_path / "w.pth")
    done("extract", data, "-o", tmp_path / "c.h5", *network, "--precision", "fp32")
    as_json("fit-head", tmp_path / "c.h5", "-o", tmp_path / "stages", "--head", "linear", "--layer", "stages")
    told = refused("finetune", data, "-o", tmp_path / "run", *network, "--init-head", tmp_path / "stages")
    assert "stages was fitted on penultimate, features.0, features.1 and" in " ".join(told.split())
    assert "the head of a network uses the layer penultimate alone. Fit it with `--head linear --layer" in told
    head = as_json("fit-head", tmp_path / "c.h5", "-o", tmp_path / "head", "--head", "linear", "--layer", "penultimate")
    options = (*network, "--init-head", tmp_path / "head", "--epochs", 1, "--wise-ft", 0.5, "--unfreeze", 2)
    found = as_json("finetune", data, "-o", tmp_path / "run", *options)
    assert found["start"]["accuracy"] == head["accuracy"]
    assert (found["start"]["head"], found["wise_ft"]) == (str(tmp_path / "head"), 0.5)
    assert found["history"][0]["lr"] == LP_FT_DEFAULTS["lr"]
    text = done("finetune", data, "-o", tmp_path / "run", *options, "--resume").splitlines()
    assert text[1].startswith(f"initial head {tmp_path / 'head'}: val accuracy {head['accuracy']:.4f} ")
    assert text[3].startswith("saved 0.5 of these weights plus 0.5 of the initial ones (WiSE-FT): val accuracy ")


def test_small_options_are_those_of_the_other_tests() -> None:
    assert set(map(str, NETWORK)) < set(SMALL)
