from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featcache
from commands import as_json, done, featcache_cli, refused
from featcache.core.ray_cluster import Cluster
from featcache.heads.fit_head import fit_head
from featcache.heads.registry import heads_with
from pagereader import read_page


@pytest.fixture
def got(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the library is called with."""
    seen: dict[str, Any] = {}
    monkeypatch.setitem(vars(featcache), "fit_head", lambda cache, **given: seen.update(cache=cache, **given))
    return seen


def test_the_head_is_right_and_saved(cache: Path, tmp_path: Path) -> None:
    lines = done("fit-head", cache, "-o", tmp_path / "head", "--head", "linear").splitlines()
    start = lines.index("head linear, val:")
    assert lines[0] == "5-fold cross-validation, 13 training samples:"
    assert lines[start + 1] == "accuracy 1.0000 (95 % interval 0.5655 to 1.0000, n = 5)"
    assert lines[start + 3 : start + 8] == [
        "class    recall  precision",
        "  ants   1.0000  1.0000     (3 of 3)",
        "  bees   1.0000  1.0000     (2 of 2)",
        "confusion (row: true class, column: predicted)",
        "          ants   bees",
    ]
    assert lines[-1] == f"saved in {tmp_path / 'head'}"
    card = json.loads((tmp_path / "head" / "model.json").read_text())
    assert (card["head"], card["classes"], card["metrics"]["accuracy"]) == ("linear", ["ants", "bees"], 1.0)
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == [
        "README.md",
        "head.safetensors",
        "held-out.safetensors",
        "model.json",
        "run.json",
        "training-samples.safetensors",
        "val.csv",
    ]


def test_without_out_nothing_is_saved(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "saved" not in done("fit-head", cache)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", [*heads_with("estimator"), "sklearn.naive_bayes.GaussianNB"])
def test_json_is_what_the_library_gives(head: str, cache: Path) -> None:
    found = as_json("fit-head", cache, "--head", head)
    direct = fit_head(cache, head=head)
    assert found["confusion"] == [list(row) for row in direct.accuracy.confusion]
    assert (found["head"], found["images"], found["path"]) == (head, 13, None)
    assert found["accuracy"] == direct.accuracy.accuracy


def test_sgd_prints_its_epochs_and_json_holds_them_instead(cache: Path) -> None:
    arguments = ("fit-head", cache, "--head", "sgd", "-p", "epochs=3", "-p", "lr=0.5", "-p", "batch_size=4")
    lines = done(*arguments).splitlines()
    assert [line.split("  lr")[0] for line in lines[:3]] == ["epoch   1", "epoch   2", "epoch   3"]
    found = as_json(*arguments)
    assert [(epoch["epoch"], epoch["lr"]) for epoch in found["history"]] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert f"loss {found['history'][0]['loss']:.4f}" in lines[0]


def test_a_training_that_diverged_is_an_error_and_saves_nothing(cache: Path, tmp_path: Path) -> None:
    arguments = ("fit-head", cache, "-o", tmp_path / "head", "--head", "sgd", "-p", "lr=1e38", "-p", "epochs=4")
    said = "sgd diverged in epoch 1: its weights or its loss on val are not finite numbers. Give a lower lr than 1e+38."
    assert refused(*arguments) == said
    assert not (tmp_path / "head/model.json").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("C=0.1", 0.1),
        ("C=1", 1),
        ("C=-1e3", -1000.0),
        ("C=None", None),
        ("C=True", True),
        ("C='1'", "1"),
        ("C=balanced", "balanced"),
        ("C=a=b", "a=b"),
        ("C=[1, 2]", [1, 2]),
        ("C=", ""),
    ],
)
def test_a_parameter_arrives_as_the_literal_that_it_is(text: str, value: object, got: dict[str, Any]) -> None:
    done("fit-head", "c.h5", "-p", text)
    assert got["parameters"] == {"C": value}
    assert type(got["parameters"]["C"]) is type(value)


def test_every_option_reaches_the_library(got: dict[str, Any]) -> None:
    done("fit-head", "c.h5", "-o", "head", "--head", "knn", "-p", "n_neighbors=3", "-p", "metric=euclidean",
         "--layer", "layer3", "--seed", 5, "--use-views", "mean", "--cv", 4, "--budget", "2m",
         "--scaling", "l2", "--calibrate", "--tta", 2, "--thresholds", "red=0.3", "--device", "cuda:1",
         "--cluster", "10.0.0.1:6379", "--cpus-per-worker", 2, "--unlabeled")  # fmt: skip
    assert callable(got.pop("on_note"))
    assert callable(got.pop("on_epoch"))
    assert callable(got.pop("progress"))
    assert got == {"cache": ("c.h5",), "unlabeled": True, "out": "head", "head": "knn", "layer": "layer3", "seed": 5,
                   "use_views": "mean", "cv": 4, "budget_s": 120.0, "scaling": "l2", "calibrate": True, "tta": 2,
                   "thresholds": {"red": 0.3},
                   "device": "cuda:1", "cluster": Cluster("10.0.0.1:6379", 0, 2),
                   "parameters": {"n_neighbors": 3, "metric": "euclidean"}}  # fmt: skip


def test_a_parameter_changes_the_head(cache: Path) -> None:
    weak = fit_head(cache, head="linear", parameters={"C": 1e-6}).accuracy
    assert weak.accuracy == 0.6  # nothing learnt but that ants are more
    confusion = as_json("fit-head", cache, "--head", "linear", "-p", "C=1e-6")["confusion"]
    assert confusion == [list(row) for row in weak.confusion]
    assert as_json("fit-head", cache, "--head", "linear", "-p", "C=100")["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--head", "linaer"), "there is no head 'linaer'. Use attention, auto, centroid, "),
        (("--head", "sklearn.svm.SVR"), "sklearn.svm.SVR is not a scikit-learn classifier"),
        (("--head", "os.path.join"), "os.path.join is not a scikit-learn classifier"),
        (
            ("-p", "C=1"),
            "auto chooses its settings itself; it takes class_weight alone. Name the head that they are for",
        ),
        (
            ("--head", "linear", "-p", "c=1"),
            "linear has no parameter 'c'; it has C, class_weight, device, max_iter, tol",
        ),
        (
            ("--head", "linear", "-p", "C=0"),
            "LinearHead could not be fitted: C must be greater than 0 and finite; got 0",
        ),
        (("--head", "linear", "-p", "C=big"), "LinearHead could not be fitted: "),
        (("--head", "logreg", "-p", "C=-1"), "LogisticRegression could not be fitted: The 'C' parameter "),
        (("--head", "sgd", "-p", "rate=1"), "sgd: "),
        (("--head", "sgd", "-p", "epochs=0"), "sgd: epochs is 0; it must be 1 or more"),
        (
            ("--layer", "layer3"),
            "{cache} has no layer 'layer3'; it has penultimate. Extract again to another file ",
        ),
    ],
)
def test_a_bad_head_or_parameter_is_refused(arguments: tuple[str, ...], message: str, cache: Path) -> None:
    assert refused("fit-head", cache, *arguments).startswith(message.format(cache=cache))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--head", "sklearn.ensemble.VotingClassifier"),
        ("--head", ".linear.LinearHead"),
        ("--head", "sgd", "-p", "epochs=many"),
        ("--head", "sgd", "-p", "optimizer=lion"),
        ("--head", "sgd", "-p", "epochs=1.5"),
        ("-p", "C={[]: 1}"),
        ("--head", "linear", "-p", "C={[]: 1}"),
    ],
    ids=" ".join,
)
def test_a_strange_head_is_a_message_not_a_traceback(arguments: tuple[str, ...], cache: Path) -> None:
    result = featcache_cli("fit-head", cache, *arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (1, 2)


def test_a_parameter_without_a_value_is_a_usage_error(cache: Path) -> None:
    assert "'C' is not name=value" in refused("fit-head", cache, "-p", "C", status=2)


def test_a_folder_with_other_things_is_not_written_into(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert refused("fit-head", cache, "-o", tmp_path) == (
        f"{tmp_path} holds other files and no model.json. Give an empty or a new folder."
    )
    assert (
        refused("fit-head", cache, "-o", tmp_path / "notes.txt") == f"{tmp_path / 'notes.txt'} is a file; give a folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("30s", 30.0), ("1.5m", 90.0), ("2h", 7200.0)])
def test_a_budget_is_a_duration(text: str, seconds: float, got: dict[str, Any]) -> None:
    done("fit-head", "c.h5", "--budget", text)
    assert got["budget_s"] == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1s", "0", "nan", "infs", "5d"])
def test_what_is_no_duration_is_a_usage_error(text: str) -> None:
    assert f"{text!r} is not a duration such as 30s, 2m or 1.5h" in refused(
        "fit-head", "c.h5", "--budget", text, status=2
    )


def test_the_report_is_one_page_of_what_was_printed(data: Path, cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "head.html"
    settings = ("--head", "linear", "-p", "C=0.1")
    text = done("fit-head", cache, "-o", tmp_path / "head", *settings, "--report", page, "--images", data)
    found = read_page(page)
    assert found.sections["Result"].code == text.partition("\nsaved in ")[0]
    assert len(found.sections["The head in figures"].captions) == 5
    assert found.sections["Commands"].code.splitlines()[1] == (
        "featcache fit-head toy.h5 -o head --head linear -p C=0.1 --tta 0 --device auto --seed 0"
    )
    done("fit-head", cache, "-o", tmp_path / "head", "--report", page, "--overwrite")
    assert len(read_page(page).sections["The head in figures"].captions) == 4


def test_a_report_needs_a_saved_head_and_images_a_report(got: dict[str, Any]) -> None:
    assert "--report needs -o: it shows the saved head" in refused(
        "fit-head", "c.h5", "--report", "head.html", status=2
    )
    assert "--images needs --report" in refused("fit-head", "c.h5", "-o", "head", "--images", "photos", status=2)
    assert got == {}


def test_a_report_that_cannot_be_written_is_a_message(cache: Path, tmp_path: Path) -> None:
    page = tmp_path / "gone" / "head.html"
    assert refused("fit-head", cache, "-o", tmp_path / "head", "--report", page, status=2) == (
        f"Invalid value for '--report': {tmp_path / 'gone'} is not a folder"
    )
    assert not (tmp_path / "head").exists()


def test_the_steps_of_a_fit_are_named(cache: Path) -> None:
    result = featcache_cli("fit-head", cache, "--head", "auto", "-v")
    assert result.exit_code == 0, result.output
    named = [line.split(":")[0] for line in result.stderr.splitlines()]
    assert named[-3:] == ["fit auto", "fit heads", "evaluate"]


def test_unlabeled_needs_samples_without_a_label(cache: Path, tmp_path: Path) -> None:
    text = refused("fit-head", cache, "-o", tmp_path / "head", "--unlabeled")
    assert "has no images without a label to learn from" in text
    assert "Leave out unlabeled (--unlabeled), or add images without a label" in text
    assert not (tmp_path / "head" / "model.json").exists()


def test_unlabeled_says_what_became_of_the_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = rng.normal(size=(160, 20)) + 2 * np.eye(2, 20)[y]
    labels = [["ant", "bee"][label] if row < 60 else None for row, label in enumerate(y)]
    split = ["train"] * 20 + ["val"] * 40 + ["unlabeled"] * 100
    featcache.FeatureCache.from_arrays(x, labels, tmp_path / "own.h5", split=split)
    text = done("fit-head", tmp_path / "own.h5", "--unlabeled")
    found = as_json("fit-head", tmp_path / "own.h5", "--unlabeled")["self_training"]
    assert (found["samples"], found["unlabeled"], found["held_out"]) == (100, 100, 20)
    assert ("self-training: " if found["used"] else "self-training does not help: ") in text
