"""`try_out`: one call from a folder to a head, a report and a doubtful label, which says what to type next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commands import as_json, done, toy_cache, write_folder
from featcache.analysis.doctor.findings import Check, DoctorReport, Issue, IssueExample
from featcache.errors import CacheMismatchError, HeadError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.reports.pages.trial import write_trial_page
from featcache.reports.try_out import Trial, try_out
from pagereader import Part, read_page
from toys import random_image, toy_backbone

SMALL = ("--backbone", "mobilenet_v3_small", "--weights", "none", "--image-size", "32")


def test_one_command_leaves_cache_head_and_report(tmp_path: Path) -> None:
    data, out = write_folder(tmp_path / "photos"), tmp_path / "out"
    values = as_json("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)
    assert sorted(path.name for path in out.iterdir()) == [".featcache-try", "cache.h5", "head", "report.html"]
    assert values["extract"]["extracted"] == 18
    assert values["fit"]["n"] == 5
    report = json.loads((out / "head/run.json").read_text())
    assert report["accuracy"] == values["fit"]["accuracy"]
    text = done("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)
    right = round(report["accuracy"] * 5)
    assert f"It predicts the label of {right} of 5 other images correctly ({right / 5:.0%}; 95 % interval " in text
    assert "5 images are few for a measurement: the interval is wide." in text
    assert f"featcache predict {out}/head PHOTO" in text
    assert as_json("try", data, "-o", out, "--views", 1, "--device", "cpu", *SMALL)["extract"]["extracted"] == 0
    model = Classifier.load(out / "head", device="cpu")
    assert model.predict(data / "val")[0].label in ("ants", "bees")


def trial(*scores: float, ranked: Sequence[float] = (), ran: bool = True) -> Trial:
    """Of labels that are doubted with these scores, and of others that are ranked."""

    def finding(kind: str, letter: str, scores: Sequence[float]) -> Issue:
        images = (
            IssueExample(f"bees/{letter}{n}.jpg", "train", "bees", "ants", score=score)
            for n, score in enumerate(scores)
        )
        return Issue(kind, "note", "", "", tuple(images))

    doubted, ranking = finding("wrong labels", "", scores), finding("least likely labels", "r", ranked)
    check = Check("labels", "not checked: images have several labels", (doubted,), ran, (ranking,))
    diagnosis = DoctorReport(Path("c.h5"), "penultimate", 9, (check,), 1.0)
    return Trial(Path("out"), "photos", None, diagnosis, None, 1.0)  # type: ignore[arg-type]


def test_labels_that_are_surely_doubted_are_named_in_plain_words() -> None:
    assert trial(0.9).labels() == ["1 label is probably wrong: bees/0.jpg is labelled bees, probably ants."]
    assert trial(0.9, 0.9, 0.9, 0.9).labels()[::4] == [
        "4 labels are probably wrong, the most suspicious first:",
        "  and 1 more",
    ]
    assert trial().labels() == ["No label looks wrong."]


def test_the_least_likely_labels_are_named_where_none_is_surely_wrong() -> None:
    """Of the doctor's doubts those of a score below 0.8 are in the ranking, with what it does not doubt at all."""
    result = trial(0.5, ranked=(0.9, 0.4, 0.1))
    assert result.labels() == [
        "No label is clearly wrong. Check first:",
        "  bees/r0.jpg is labelled bees, probably ants",
        "  bees/0.jpg is labelled bees, probably ants",
        "  bees/r1.jpg is labelled bees, probably ants",
        "  and 1 more",
    ]
    assert result.doubtful == ()
    assert [example.score for example in result.least_likely] == [0.9, 0.5, 0.4, 0.1]
    assert trial(0.85, ranked=(0.9,)).labels() == [
        "1 label is probably wrong: bees/0.jpg is labelled bees, probably ants.",
        "Check these labels next; they may be right:",
        "  bees/r0.jpg is labelled bees, probably ants",
    ]


def test_labels_that_were_not_looked_at_are_not_called_right() -> None:
    assert trial(ran=False).labels() == ["Labels were not checked: images have several labels."]


def test_what_was_not_read_or_tried_is_said(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos")
    sorted((data / "train/ants").iterdir())[0].write_bytes(b"no image")
    trial = try_out(data, tmp_path / "out", backbone=toy_backbone(), views=0)
    assert "18 images of 2 classes; the head (" in str(trial)
    assert ") was trained on 12." in str(trial)
    assert "not tried" not in str(trial)
    selection = replace(trial.fit.selection, skipped=(("knn", "the budget was spent"), ("linear", "it failed")))
    short = replace(trial, fit=replace(trial.fit, selection=selection))
    assert (
        "Other heads (knn) were not tried for lack of time: repeat the command with --budget 1m to try them."
    ) in str(short)


# The page

NASTY = "<b>&$x_1$"


def test_the_page_has_labels_unreadable_files_and_what_to_type_next(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {f"train/{NASTY}": 12, "train/bees": 12, f"val/{NASTY}": 4, "val/bees": 4})
    (data / "train/bees/000.png").rename(data / "train" / NASTY / "planted.png")
    for n in range(26):
        (data / f"train/bees/<i>{n:02d}.png").write_bytes(b"no image")
    out = tmp_path / "featcache-try"
    trial = try_out(data, out, backbone=toy_backbone(), views=0, seed=3)
    assert "planted.png" in [Path(example.image).name for example in (*trial.doubtful, *trial.least_likely)]
    page = read_page(out / "report.html")
    assert str(tmp_path) not in (out / "report.html").read_text(encoding="utf-8")
    assert list(page.sections)[:4] == ["Result", "Labels to check", "Unreadable files", "Next commands"]
    assert page.sections["Result"].lines[0].startswith("58 images of 2 classes; the head (")
    labels = page.sections["Labels to check"]
    assert labels.lines == [line.removesuffix(":") for line in trial.labels() if not line.startswith(" ")]
    header, *rows = labels.tables[0]
    assert header == ["image", "label", "suggested", "margin"]
    assert [f"train/{NASTY}/planted.png", NASTY, "bees"] in [row[:3] for row in rows]
    assert labels.captions == ["Labels that may be wrong"]
    unread = page.sections["Unreadable files"]
    assert unread.lines == ["26 images cannot be read and are not included"]
    assert [row[0] for row in unread.tables[0][1:]] == [f"train/bees/<i>{n:02d}.png" for n in range(24)]
    assert unread.notes == ["and 2 more"]
    following = page.sections["Next commands"].code
    assert "featcache predict featcache-try/head PHOTO" in following
    assert "featcache doctor featcache-try/cache.h5 photos" in following
    repeat = page.sections["Commands"].code
    assert repeat == "featcache try photos -o featcache-try --backbone MODULE:FACTORY --seed 3"
    assert not {"b", "i"} & set(page.tags)


def test_a_page_of_sound_images_has_neither_pictures_of_labels_nor_unreadable_files(tmp_path: Path) -> None:
    result = try_out(write_folder(tmp_path / "photos"), tmp_path / "out", backbone=toy_backbone(), views=0)
    assert result.labels() == ["No label looks wrong."]
    page = read_page(tmp_path / "out/report.html")
    assert page.sections["Labels to check"] == Part(lines=["No label looks wrong."])
    assert "Unreadable files" not in page.sections


def test_labels_whose_pictures_are_gone_stay_in_the_list(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"train/ants": 12, "train/bees": 12, "val/ants": 4, "val/bees": 4})
    (data / "train/bees/000.png").rename(data / "train/ants/planted.png")
    result = try_out(data, tmp_path / "out", backbone=toy_backbone(), views=0)
    (tmp_path / "gone").mkdir()
    path = write_trial_page(tmp_path / "page.html", replace(result, data=str(tmp_path / "gone")))
    labels = read_page(path).sections["Labels to check"]
    assert "train/ants/planted.png" in [row[0] for row in labels.tables[0]]
    assert labels.captions == []
    assert labels.notes == [
        "margin: the probability of the suggested label minus that of the given label, 0 to 1, by heads that were not "
        "fitted to the image. The higher it is, the more likely the given label is wrong.",
        "Labels that may be wrong: not drawn. Their files are missing or have changed.",
    ]


def test_what_was_typed_is_repeated_with_a_weights_file_by_its_name(tmp_path: Path) -> None:
    result = replace(
        trial(),
        data=str(tmp_path / "photos"),
        folder=tmp_path / "out",
        extraction=SimpleNamespace(cache=SimpleNamespace(spec=SimpleNamespace(backbone="resnet18", modality="image"))),
        settings={"weights": str(tmp_path / "w.pth"), "label_column": "kind"},
        own_settings={"views": 2, "seed": None, "budget_s": 30.0},
    )
    portable = result.without_folders()
    network = "--backbone resnet18 --weights w.pth --label-column kind"
    assert portable.own_command() == f"featcache try photos -o out {network} --views 2 --budget 30.0"
    assert f"featcache benchmark photos -o out-benchmark {network}  # " in portable.next_commands()[-1]
    assert f"--weights {tmp_path}/w.pth --label-column kind  # " in result.next_commands()[-1]


# Again, and in other folders


@pytest.mark.parametrize("mended", [False, True])
def test_a_trial_of_an_older_version_is_extracted_again_with_a_word(mended: bool, tmp_path: Path) -> None:
    """Its cache has the penultimate layer alone."""
    data, out = write_folder(tmp_path / "photos"), tmp_path / "out"
    network: dict[str, Any] = {"backbone": "timm/test_resnet", "weights": "none", "image_size": 32, "views": 1}
    out.mkdir()
    (out / ".featcache-try").touch()
    extract(data, out / "cache.h5", layers="last", **network)
    if mended:
        (data / "train/ants/000.png").rename(data / "train/bees/mended.png")
    notes: list[str] = []
    trial = try_out(data, out, on_note=notes.append, **network)
    assert f"extracts {out / 'cache.h5'} again: it has the layers of an older version (penultimate)" in notes
    assert trial.extraction.extracted == 18
    assert len(trial.extraction.cache.spec.layers) > 1
    with pytest.raises(CacheMismatchError, match="image_size=32, you asked for 48"):  # settings are not replaced
        try_out(data, out, **{**network, "image_size": 48})


@pytest.mark.parametrize("mended", [False, True])
def test_a_trial_with_other_views_is_updated_with_a_word(
    mended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older versions extracted 4 views by "tutorial"."""
    data, out, toy = write_folder(tmp_path / "photos"), tmp_path / "out", toy_backbone()
    out.mkdir()
    (out / ".featcache-try").touch()
    extract(data, out / "cache.h5", backbone=toy, views=4, augment="tutorial")
    if mended:
        (data / "train/ants/000.png").rename(data / "train/bees/mended.png")
    notes: list[str] = []
    trial = try_out(data, out, backbone=toy, on_note=notes.append)
    (note,) = [note for note in notes if note.startswith("updates ")]
    assert note.startswith(f"updates {out / 'cache.h5'}: no augmented views instead of 4 augmented views by tutorial")
    assert ("mended.png" in note) == mended
    fresh = try_out(data, tmp_path / "fresh", backbone=toy)
    assert (trial.extraction.cache.spec, trial.extraction.extracted) == (fresh.extraction.cache.spec, 0)
    assert (trial.extraction.cache.features("train").x == fresh.extraction.cache.features("train").x).all()
    assert trial.fit.accuracy == fresh.fit.accuracy
    notes.clear()
    trial = try_out(data, out, backbone=toy, views=1, on_note=notes.append)
    assert f"updates {out / 'cache.h5'}: 1 augmented view by gentle instead of no augmented views" in notes
    assert (trial.extraction.cache.spec.views, trial.extraction.cache.spec.view.augment) == (1, "gentle")


def test_a_trial_is_repeated_when_a_label_was_mended(tmp_path: Path) -> None:
    """As its own page advises. Only what is new is extracted."""
    data = write_folder(tmp_path / "photos")
    toy = toy_backbone()
    try_out(data, tmp_path / "out", backbone=toy, views=1)
    (data / "train/ants/000.png").rename(data / "train/bees/mended.png")
    (data / "train/bees/000.png").unlink()
    random_image(99).save(data / "train/ants/new.png")
    notes: list[str] = []
    again = try_out(data, tmp_path / "out", backbone=toy, views=1, on_note=notes.append)
    (update_note,) = [note for note in notes if note.startswith(f"updates {tmp_path / 'out/cache.h5'}: ")]
    assert "1 added (for example train/ants/new.png)" in update_note
    fresh = try_out(data, tmp_path / "fresh", backbone=toy, views=1)
    assert again.extraction.extracted == 0  # the update before has extracted the new one
    assert again.extraction.cache.samples.digest() == fresh.extraction.cache.samples.digest()
    assert again.fit.accuracy == fresh.fit.accuracy
    other = write_folder(tmp_path / "other", seed=9)
    with pytest.raises(HeadError) as refused:
        try_out(other, tmp_path / "out", backbone=toy, views=1)
    assert str(refused.value).startswith(f"{tmp_path / 'out'} holds a trial of other images: 18 of 18 images")
    with pytest.raises(CacheMismatchError, match="was made with seed=0, you asked for 2"):
        try_out(data, tmp_path / "out", backbone=toy, views=1, seed=2)


def test_a_trial_does_not_go_into_a_folder_of_other_files(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos")
    toy_cache(data, tmp_path / "c.h5")
    fit_head(tmp_path / "c.h5", tmp_path / "head", head="centroid")
    for folder in (tmp_path / "head", data, data / "train"):
        before = sorted(path.name for path in folder.iterdir())
        with pytest.raises(HeadError) as refused:
            try_out(data, folder, backbone=toy_backbone())
        assert str(refused.value) == f"{folder} holds other files. Give an empty or a new folder with -o."
        assert sorted(path.name for path in folder.iterdir()) == before


def test_what_was_passed_over_is_said(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos")
    (data / "train/ants/notes.docx").write_bytes(b"x")
    trial = try_out(data, tmp_path / "out", backbone=toy_backbone(), views=0)
    assert "ignored 1 file: not an image (.docx)" in str(trial)
