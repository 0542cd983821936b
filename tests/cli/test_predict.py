from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from commands import ROOT, deliver, done, drop_hashes, featcache_cli, refused
from featcache.backbones.engines.select import CONVERSION_PAYS
from featcache.models import sort_files
from featcache.models.classifier import Classifier
from featcache_cli import options
from featcache_cli.main import main


@pytest.fixture(scope="module")
def head(data: Path, real_cache: Path) -> Path:
    done("fit-head", real_cache, "-o", data.parent / "head")
    return data.parent / "head"


def _json(*arguments: object) -> list[dict[str, Any]]:
    """The predictions, whatever they are wrapped in."""
    found = json.loads(done("predict", *arguments, "--json"))
    predictions: list[dict[str, Any]] = found if isinstance(found, list) else found["predictions"]
    return predictions


def test_lines_are_what_the_classifier_says(head: Path, data: Path) -> None:
    result = featcache_cli("predict", head, data / "val")
    images = sorted((data / "val").rglob("*.png"))
    predictions = Classifier.load(head).predict(images)
    assert result.stdout.splitlines() == [str(prediction) for prediction in predictions]
    for line, prediction, path in zip(result.stdout.splitlines(), predictions, images, strict=True):
        name, first, second = line.split("\t")
        assert name == str(path)
        assert first == f"{prediction.label} {prediction.probability:.4f}"
        assert float(first.split()[1]) + float(second.split()[1]) == pytest.approx(1, abs=1e-3)
    assert result.stderr == ""  # progress is a line every ten seconds where stderr is no terminal


def test_json_has_the_same_and_top_counts(head: Path, data: Path) -> None:
    image = data / "val/bees/000.png"
    (found,) = _json(head, image, "--top", 1)
    (direct,) = Classifier.load(head).predict([image], top=1)
    assert found == direct.to_dict()
    assert len(found["top"]) == 1
    assert (found["path"], found["error"]) == (str(image), None)


def test_json_is_one_object(head: Path, data: Path) -> None:
    assert isinstance(json.loads(done("predict", head, data / "val/bees/000.png", "--json")), dict)


def test_files_folders_and_globs_come_in_order(head: Path, data: Path) -> None:
    first = data / "train/bees/000.png"
    found = _json(head, first, data / "val/ants", f"{data}/val/bees/*.png")
    assert [entry["path"] for entry in found] == [
        str(first),
        *(str(data / "val/ants" / f"{number:03d}.png") for number in range(3)),
        *(str(data / "val/bees" / f"{number:03d}.png") for number in range(2)),
    ]


def test_an_unreadable_picture_has_its_line_and_harms_no_other(head: Path, data: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "b.png", tmp_path / "a.png"
    shutil.copy(data / "val/ants/000.png", good)
    bad.write_bytes(b"")
    lines = done("predict", head, tmp_path).splitlines()
    assert lines[0] == f"{bad}\tunreadable: the file is empty (0 bytes)"
    assert lines[1].startswith(f"{good}\t")
    found = _json(head, tmp_path)
    assert [entry["error"] for entry in found] == ["the file is empty (0 bytes)", None]
    assert found[0]["label"] is None


def test_nothing_but_unreadable_pictures_is_status_1(head: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for more in ((), ("--json",)):
        result = featcache_cli("predict", head, tmp_path, *more)
        assert result.exit_code == 1
        assert "the file is empty (0 bytes)" in result.stdout
        assert "Traceback" not in result.output


@pytest.mark.parametrize("pattern", ["gone.png", "*.jpg", "."])
def test_no_picture_is_refused(pattern: str, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("predict", head, pattern) == (
        f"{pattern} names no image: no such file, or a folder or pattern without images."
    )
    assert "Missing argument 'SAMPLES...'" in refused("predict", head, status=2)


def test_what_is_no_model_is_refused(data: Path, cache: Path, tmp_path: Path) -> None:
    image = data / "val/ants/000.png"
    for folder in (tmp_path, tmp_path / "gone", cache):
        assert refused("predict", folder, image) == (
            f"{folder} is not a saved model: it has no model.json. Give the folder that "
            "`featcache fit-head -o` or `featcache finetune -o` wrote."
        )


def test_a_damaged_model_is_refused(head: Path, data: Path, tmp_path: Path) -> None:
    image = data / "val/ants/000.png"
    copy = Path(shutil.copytree(head, tmp_path / "head"))
    (copy / "head.safetensors").write_bytes(b"broken")
    assert refused("predict", copy, image).startswith(f"{copy} is damaged: head.safetensors is not the file that")
    drop_hashes(copy)
    assert refused("predict", copy, image).startswith(f"{copy / 'head.safetensors'} is not a head that can be loaded")
    (copy / "model.json").write_text("{")
    assert refused("predict", copy, image).startswith(f"{copy / 'model.json'} is not a featcache model: ")


def test_other_weights_than_the_head_was_fitted_on_are_refused(head: Path, data: Path, mobilenet_weights: Path) -> None:
    message = refused("predict", head, data / "val/ants/000.png", "--weights", mobilenet_weights)
    assert "are not those of this network" in message


def test_a_fine_tuned_network_predicts(data: Path, tmp_path: Path) -> None:
    done("finetune", data, "-o", tmp_path / "run", "--backbone", "mobilenet_v3_small", "--init", "scratch",
         "--image-size", 32, "--epochs", 1, "--batch-size", 5)  # fmt: skip
    found = _json(tmp_path / "run", data / "val")
    labels = [Path(entry["path"]).parent.name == entry["label"] for entry in found]
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (card["kind"], len(labels)) == ("network", 5)
    assert sum(labels) / 5 == pytest.approx(card["metrics"]["accuracy"])


# Formats and names


def test_csv_goes_to_a_file_that_is_whole(head: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "val/ants/000.png", tmp_path / os.fsdecode(b'a,"\n\xe9.png'))
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "out.csv"
    assert done("predict", head, tmp_path, "--format", "csv", "-o", out) == ""
    direct = Classifier.load(head).predict(sorted(tmp_path.glob("*.png")))
    with out.open(newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["path", "label", "probability", "error", "remark"],
            [direct[0].path, direct[0].label, f"{direct[0].probability:.6f}", "", ""],
            [str(tmp_path / "bad.png"), "", "", "the file is empty (0 bytes)", ""],
        ]
    raw = CliRunner().invoke(main, ["predict", str(head), str(tmp_path), "--format", "csv"]).stdout_bytes
    assert raw == out.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".png") == ["out.csv"]


def test_json_lines_and_the_json_option_agree(head: Path, data: Path) -> None:
    lines = done("predict", head, data / "val", "--format", "jsonl").splitlines()
    assert [json.loads(line) for line in lines] == _json(head, data / "val")
    assert json.loads(done("predict", head, data / "val", "--format", "json"))["predictions"] == _json(
        head, data / "val"
    )


def _from_stdin(head: Path, names: bytes, *options: str) -> Result:
    return CliRunner().invoke(main, ["predict", str(head), "-", *options], input=names)


def test_names_on_stdin_that_are_no_pictures_are_listed(head: Path, data: Path, tmp_path: Path) -> None:
    good, text = data / "val/ants/000.png", tmp_path / "text.png"
    text.write_text("text")
    os.mkfifo(tmp_path / "pipe.png")
    names = [good, tmp_path / "gone.png", text, tmp_path / "pipe.png", tmp_path, good]
    reasons = ["No such file or directory", "not an image that Pillow can identify", "not a regular file, but a pipe",
               "Is a directory"]  # fmt: skip
    for end, option in ((b"\n", []), (b"\0", ["-0"])):
        result = _from_stdin(head, end.join(map(os.fsencode, names)), "--format", "jsonl", *option)
        assert result.exit_code == 0
        found = [json.loads(line) for line in result.stdout.splitlines()]
        assert [one["path"] for one in found] == list(map(str, names))
        assert [one["error"] for one in found] == [None, *reasons, None]
        expected = [f"  {name}: {reason}" for name, reason in zip(names[1:5], reasons, strict=True)]
        assert result.stderr.splitlines()[-5:] == ["4 of 6 images could not be read:", *expected]


def test_files_and_stdin_together(head: Path, data: Path) -> None:
    image, named = data / "val/ants/000.png", data / "val/bees/000.png"
    result = CliRunner().invoke(main, ["predict", str(head), "-", str(image), "--json"], input=f"{named}\n")
    assert [one["path"] for one in json.loads(result.stdout)["predictions"]] == [str(image), str(named)]


def test_nothing_on_stdin_is_refused(head: Path) -> None:
    result = _from_stdin(head, b"\n")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "Error: stdin is empty: it has no image.")
    result = _from_stdin(head, b"a.png\0b.png\0")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert said.endswith("the names on stdin have NUL characters in them; find -print0 needs -0 here.")


def test_an_error_on_the_way_loses_nothing_of_what_was_done(head: Path, data: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, path in enumerate(sorted((data / "val").rglob("*.png"))):
        shutil.copyfile(path, photos / f"{number}.png")
    names = "".join(f"{path}\n" for path in sorted(photos.iterdir())) + "a\0b\n"
    out = tmp_path / "out.csv"
    given = ["predict", str(head), "-", "--move-to", str(tmp_path / "sorted"), "--format", "csv", "-o", str(out)]
    result = CliRunner().invoke(main, given, input=names)
    assert result.exit_code == 1
    assert not list(photos.iterdir())
    rows = list(csv.DictReader(Path(f"{out}.unfinished").read_text().splitlines()))
    assert {row["moved_to"] for row in rows} == {str(path) for path in (tmp_path / "sorted").rglob("*.png")}
    assert len(rows) == 5
    assert not out.exists()
    assert "moved 5 files into" in result.stderr


def test_twenty_of_many_bad_pictures_are_named(head: Path, data: Path) -> None:
    names = [f"gone{number}.png" for number in range(23)]
    result = _from_stdin(head, "\n".join([*names, str(data / "val/ants/000.png")]).encode())
    assert result.exit_code == 0
    expected = [f"  {name}: No such file or directory" for name in names[:20]]
    assert result.stderr.splitlines()[-22:] == ["23 of 24 images could not be read:", *expected, "  and 3 more"]


def test_many_files_are_worth_a_conversion_and_names_on_stdin_are_not_counted(
    head: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    load = Classifier.load

    def note(*arguments: Any, views: int, **options: Any) -> Classifier:
        told.append(views)
        return load(*arguments, **options)

    monkeypatch.setattr(Classifier, "load", note)
    done("predict", head, *[data / "val/ants/000.png"] * 3, "--tta", 1)
    _from_stdin(head, os.fsencode(data / "val/ants/000.png"))
    assert told == [6, 0]
    assert CONVERSION_PAYS > 6


def test_a_stopped_prediction_keeps_what_was_done(
    head: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Classifier.stream

    def stopping(*arguments: Any, **options: Any) -> Iterator[Any]:
        for number, prediction in enumerate(stream(*arguments, **options)):
            if number == 1:
                deliver(signal.SIGTERM)
            yield prediction

    monkeypatch.setattr(Classifier, "stream", stopping)
    monkeypatch.setattr(options, "progress_bar", partial(options.progress_bar, grace_s=600.0))  # no interruption
    result = featcache_cli("predict", head, data / "val", "--json", "-o", tmp_path / "out.json")
    assert result.exit_code == 143
    assert result.stderr.endswith("Stopped. predict: 2 of 5 done; the predictions written so far are kept.\n")
    found = json.loads((tmp_path / "out.json").read_text())["predictions"]
    assert [Path(one["path"]).name for one in found] == ["000.png", "001.png"]
    result = _from_stdin(head, b"\n".join(os.fsencode(path) for path in (data / "val").rglob("*.png")))
    assert result.stderr.endswith("Stopped. predict: 2 done; the predictions written so far are kept.\n")


def test_predictions_come_while_names_come_and_a_closed_pipe_is_quiet(head: Path, data: Path) -> None:
    name = os.fsencode(data / "val/ants/000.png") + b"\n"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from featcache_cli.main import main; main()",
            "predict",
            head,
            "-",
            "--format",
            "jsonl",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        for _ in range(200):  # enough for the first batch to be seen; stdin stays open
            process.stdin.write(name)
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"] is None
        process.stdout.close()
        process.stdin.write(name)
        process.stdin.close()
        said = process.stderr.read().decode()
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "rror" not in said


# Sorting


@pytest.fixture
def inbox(data: Path, tmp_path: Path) -> Path:
    """The val images, all in one folder, and a bad one."""
    (tmp_path / "in").mkdir()
    for path in (data / "val").rglob("*.png"):
        shutil.copy(path, tmp_path / "in" / f"{path.parent.name}{path.name}")
    (tmp_path / "in/bad.png").write_bytes(b"")
    return tmp_path / "in"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".featcache-sorted"}  # fmt: skip


@pytest.mark.parametrize("how", ["move", "link"])
def test_files_are_sorted_into_the_folders_of_their_classes(how: str, head: Path, inbox: Path) -> None:
    out = inbox.parent / "out"
    expected = {one.path: f"{out}/{one.label}/{Path(one.path).name}" for one in
                Classifier.load(head).predict(sorted(inbox.iterdir())) if one.label}  # fmt: skip
    before = _tree(inbox.parent)
    line = ("predict", head, inbox, f"--{how}-to", out, "--format", "csv")
    dry = featcache_cli(*line, "--dry-run")
    assert _tree(inbox.parent) == before
    result = featcache_cli(*line)
    assert (dry.exit_code, result.exit_code, dry.stdout) == (0, 0, result.stdout)
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert {row["path"]: row["moved_to"] for row in rows} == {**expected, str(inbox / "bad.png"): ""}
    assert _tree(out) == {
        str(Path(to).relative_to(out)): before[f"in/{Path(path).name}"] for path, to in expected.items()
    }
    left = [path.name for path in inbox.iterdir()]
    assert left == ["bad.png"] if how == "move" else len(left) == 6
    ants, bees = (sum(f"/{name}/" in to for to in expected.values()) for name in ("ants", "bees"))
    shares = ", ".join(f"{count} to {name}" for name, count in (("ants", ants), ("bees", bees)) if count)
    assert result.stderr.splitlines()[-1] == f"{how.replace('move', 'mov')}ed 5 files into {out}: {shares}"
    assert dry.stderr.splitlines()[-1] == f"would have {how.replace('move', 'mov')}ed 5 files into {out}: {shares}"
    after = _tree(inbox.parent)
    again = featcache_cli("predict", head, inbox, out, f"--{how}-to", out)
    assert _tree(inbox.parent) == after
    there = 5 if how == "move" else 10
    assert again.stderr.splitlines()[-1].endswith(f" 0 files into {out}; {there} were there already")


def test_a_file_that_is_named_twice_is_moved_once(head: Path, inbox: Path) -> None:
    file = inbox / "ants000.png"
    found = _json(head, file, inbox, file, "--move-to", inbox)
    assert [one["path"] for one in found].count(str(file)) == 1
    assert len(found) == 6
    assert [one["error"] for one in found].count(None) == 5
    assert all(Path(place).is_file() for one in found for place in one["moved_to"])


def test_what_cannot_be_moved_is_status_1(head: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sort_files, "_move", full)
    result = featcache_cli("predict", head, inbox / "ants000.png", "--move-to", inbox.parent / "out")
    assert result.exit_code == 1
    assert result.stdout.endswith("\tcould not be moved: No space left on device\n")
    assert result.stderr.splitlines()[-3:] == [
        "1 of 1 files could not be moved or linked:",
        f"  {inbox / 'ants000.png'}: could not be moved: No space left on device",
        f"moved 0 files into {inbox.parent / 'out'}",
    ]


@pytest.mark.parametrize("options", [["--dry-run"], ["--move-to", "a", "--link-to", "b"]], ids=str)
def test_options_that_do_not_fit_are_refused(options: list[str], head: Path, data: Path) -> None:
    assert refused("predict", head, data / "val", *options, status=2) == (
        "--move-to and --link-to exclude each other, and --dry-run needs one of them"
    )


def test_a_class_that_is_no_folder_s_name_is_refused_before_anything_is_done(head: Path, inbox: Path) -> None:
    copy = Path(shutil.copytree(head, inbox.parent / "head"))
    card = json.loads((copy / "model.json").read_text())
    (copy / "model.json").write_text(json.dumps({**card, "classes": ["ants", "../bees"]}))
    before = _tree(inbox)
    message = refused("predict", copy, inbox, "--move-to", inbox.parent / "out")
    assert message.startswith("the class '../bees' cannot be the name of a folder")
    assert (_tree(inbox), (inbox.parent / "out").exists()) == (before, False)
