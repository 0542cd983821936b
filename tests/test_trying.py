"""`try_out`: one call from a folder to a head, a report and a doubtful label, which says what to type next."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from commands import as_json, done, write_folder
from featcache.classifier import Classifier
from featcache.findings import Check, Diagnosis, Finding, Suspect
from featcache.trying import Trial, try_out
from toys import toy_backbone

SMALL = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-size", "32")


def test_one_command_leaves_cache_head_and_report(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "photos"), tmp_path / "out"
    found = as_json("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)
    assert sorted(path.name for path in out.iterdir()) == [".featcache-try", "cache.h5", "head", "report.html"]
    assert found["extract"]["extracted"] == 18
    assert found["fit"]["n"] == 5
    own = json.loads((out / "head/run.json").read_text())
    assert own["accuracy"] == found["fit"]["accuracy"]
    text = done("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)
    right = round(own["accuracy"] * 5)
    assert f"{right} of 5 right, of images that it was not trained on" in text
    assert "5 images are few to judge by" in text
    assert f"featcache predict {out}/head PHOTO" in text
    assert as_json("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)["extract"]["extracted"] == 0
    model = Classifier.load(out / "head", device="cpu")
    assert model.predict(data / "val")[0].label in ("ants", "bees")


def test_labels_that_are_surely_doubted_are_named_in_plain_words() -> None:
    """Those of a score below 0.8 are left to the doctor."""

    def trial(*scores: float) -> Trial:
        images = tuple(Suspect(f"bees/{n}.jpg", "train", "bees", "ants", score=score) for n, score in enumerate(scores))
        check = Check("labels", "1 of 9 labels are doubted", (Finding("wrong labels", "note", "", "", images),))
        diagnosis = Diagnosis(Path("c.h5"), "penultimate", 9, (check,), 1.0)
        return Trial(Path("out"), "photos", None, diagnosis, None, 1.0)  # type: ignore[arg-type]

    assert trial(0.5)._doubts() == [
        "No label is surely wrong; 1 of 9 labels are doubted. Look at bees/0.jpg, which says bees, rather ants."
    ]
    assert trial(0.9, 0.5)._doubts() == ["One image may be mislabelled: bees/0.jpg, which says bees, rather ants."]
    assert trial(0.9, 0.9, 0.9, 0.9)._doubts()[::4] == [
        "4 images may be mislabelled, the most doubtful first:",
        "  and 1 more",
    ]


def test_labels_that_were_not_looked_at_are_not_called_right() -> None:
    check = Check("labels", "not looked at: images have several labels", looked=False)
    trial = Trial(Path("out"), "photos", None, Diagnosis(Path("c.h5"), "x", 9, (check,), 1.0), None, 1.0)  # type: ignore[arg-type]
    assert trial._doubts() == ["Wrong labels: not looked at: images have several labels."]


def test_what_was_not_read_or_tried_is_said(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos")
    sorted((data / "train/ants").iterdir())[0].write_bytes(b"no image")
    trial = try_out(data, tmp_path / "out", backbone=toy_backbone(), views=0)
    assert "18 images of 2 classes; the head (" in str(trial)
    assert ") learnt from 12." in str(trial)
    assert "Not tried" not in str(trial)
    selection = replace(trial.fit.selection, missed=(("knn", "the budget was spent"), ("linear", "it failed")))
    short = replace(trial, fit=replace(trial.fit, selection=selection))
    assert "Not tried, as the time was up: knn. For these: --budget 1m." in str(short)
