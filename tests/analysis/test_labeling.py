"""`LabelSession`: each label is in the table at once; the order is that of `suggest`; the accuracy that of the head."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache import FeatureCache, suggest
from featcache.analysis.labeling import session as module
from featcache.analysis.labeling.assessment import Doubt, assess
from featcache.analysis.labeling.session import BATCH, ChangedMeanwhileError, LabelSession, check_name
from featcache.cache.features import Features
from featcache.cache.relabel import relabel
from featcache.core.samples import Samples, format_labels
from featcache.core.specs import PENULTIMATE
from featcache.errors import CacheMismatchError, DataLayoutError, OutputError, RunError, SpecError
from featcache.extraction.extract import extract
from featcache.extraction.update import update
from featcache.heads.fit import fit
from featcache.heads.training_data import FitOptions, TrainingData
from toys import random_image, toy_backbone
from toytexts import toy_text_encoder

MakeFolder = Callable[..., Path]


def tinted(folder: Path, n: int) -> Path:
    """Photos of two kinds, in turn: the toy network tells them apart."""
    (folder / "photos").mkdir(parents=True)
    for number in range(n):
        random_image(number, tint=number % 2).save(folder / "photos" / f"{number:03d}.png")
    return folder / "photos"


def kind_of(session: LabelSession, row: int) -> str:
    return ["ants", "bees"][int(session.cache.samples.ids[row][-7:-4]) % 2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 photos without a label, and cache.h5 beside their folder."""
    root = tmp_path_factory.mktemp("made")
    extract(tinted(root, 40), root / "cache.h5", backbone=toy_backbone(), workers=1, views=0, dtype="float32")
    return root


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    """The folder of photos, in a copy."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "photos"


def open_session(photos: Path, **options: object) -> LabelSession:
    return LabelSession(FeatureCache.open(photos.parent / "cache.h5"), photos, **options)  # type: ignore[arg-type]


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def label_all(session: LabelSession, n: int) -> list[int]:
    """Label the next n suggested samples by their kind; returns the rows."""
    rows = []
    for _ in range(n):
        if session.is_choosing:
            session.choose()
        row = session.queue[0].row
        session.label(row, kind_of(session, row), "")
        rows.append(row)
    return rows


def test_the_order_is_that_of_suggest_before_and_after_labels(photos: Path) -> None:
    session = open_session(photos)
    ids = session.cache.samples.ids
    first = suggest(session.cache, BATCH)
    assert [(ids[one.row], one.reason) for one in session.queue] == [(one.path, one.reason) for one in first.samples]
    rows = label_all(session, BATCH)
    assert session.queue == []
    session.choose()
    named = {row: kind_of(session, row) for row in rows}
    second = suggest(relabel(session.cache, named), BATCH)
    assert [(ids[one.row], one.reason) for one in session.queue] == [(one.path, one.reason) for one in second.samples]
    assert second.samples[0].guess is not None  # from eight labels on, a head says what lies between classes
    assert not {one.row for one in session.queue} & {*rows}


def test_each_label_is_in_the_table_at_once(photos: Path) -> None:
    session = open_session(photos, classes=["wasps"])
    assert not session.path.exists()
    assert session.classes == ["wasps"]
    expected: dict[str, str] = {}
    for number, one in enumerate(session.queue[:5], 1):
        name = "a new, one" if number == 3 else kind_of(session, one.row)
        session.label(one.row, name, "")
        expected[f"photos/{session.cache.samples.ids[one.row]}"] = name
        rows = read_table(session.path)
        assert len(rows) == 40
        assert {row["path"]: row["label"] for row in rows if row["label"]} == expected
        assert [row["path"] for row in rows[:number]] == [*expected]
        assert [row["reason"] for row in rows[:number]] == ["labeled"] * number
    assert session.classes == ["wasps", *dict.fromkeys(expected.values())]
    assert (session.labeled, session.changes) == (5, 5)


def test_an_opened_session_continues_from_the_table(photos: Path) -> None:
    session = open_session(photos)
    rows = [one.row for one in session.queue[:5]]
    session.label(rows[0], "ants", "")
    session.skip(rows[1], "")
    session.label(rows[2], "bees", "")
    session.label(rows[0], "wasps", "ants")  # a correction comes last in the history
    session.label(rows[3], "ants", "")
    session.label(rows[3], "", "ants")
    again = open_session(photos)
    assert again.labels == session.labels
    assert again.history == session.history == [rows[1], rows[2], rows[0]]
    assert (again.skipped, again.labeled) == (1, 2)
    assert not {one.row for one in again.queue} & {*rows[:3]}
    assert rows[3] in {one.row for one in again.queue}
    again.bring_back()
    assert again.queue[-1].row == rows[1]
    assert again.history == [rows[2], rows[0]]
    again.label(again.queue[0].row, "ants", "")
    assert open_session(photos).skipped == 0


def test_update_reads_the_table(photos: Path) -> None:
    session = open_session(photos)
    label_all(session, 30)
    session.label(session.history[0], "wasps", session.labels[session.history[0]])
    changed = update(session.cache.path, session.path, backbone=toy_backbone(), workers=1)
    assert changed.shown == 0
    cache = FeatureCache.open(session.cache.path)
    found = dict(zip(cache.samples.ids, format_labels(cache.samples.labels, cache.samples.classes), strict=True))
    assert found == {
        f"photos/{name}": label for name, label in zip(session.cache.samples.ids, session.labels, strict=True)
    }
    assert cache.samples.classes == ("ants", "bees", "wasps")
    after = LabelSession(cache, session.path)  # the table is the data from now on
    assert (after.labeled, after.changes) == (30, 0)
    assert [cache.samples.ids[row] for row in after.history] == [
        f"photos/{session.cache.samples.ids[row]}" for row in session.history
    ]
    with pytest.raises(CacheMismatchError, match=r"40 of 40 images .* are not in .*photos .*after an update .*table"):
        LabelSession(cache, photos)


def test_the_accuracy_is_that_of_the_head_cross_validated_on_the_labels(photos: Path) -> None:
    session = open_session(photos)
    rows = np.sort(label_all(session, 24))
    session.label(int(rows[3]), "wasps", session.labels[rows[3]])
    session.assess()
    names = ["ants", "bees", "wasps"]
    y = np.array([names.index(session.labels[row]) for row in rows])
    x = np.array(session.cache.features("unlabeled").x)[rows]
    samples = replace(session.cache.samples.take(rows), labels=y, split=np.zeros(24, np.uint8), classes=tuple(names))
    features = Features(x, samples)
    direct = fit("auto", TrainingData(features, features, layers=(PENULTIMATE,)), FitOptions()).selection
    assert direct is not None
    (found,) = session.assessments
    assert found.accuracy == direct.chosen.accuracy
    assert (found.labels, found.accuracy.n) == (24, 23)  # a class of one label is never held out
    update(session.cache.path, session.path, backbone=toy_backbone(), workers=1)
    after = LabelSession(FeatureCache.open(session.cache.path), session.path)
    assert len(after.cache.samples.rows("val")) > 0
    after.assess()
    again = after.assessments[0].accuracy
    assert again is not None
    assert (again.n, again.confusion) == (23, found.accuracy.confusion)  # val, which `update` draws, has labels, too
    assert again.log_loss == pytest.approx(found.accuracy.log_loss, abs=1e-6)


def test_it_says_when_there_are_too_few_labels(photos: Path) -> None:
    session = open_session(photos)
    session.assess()
    for name in ("ants", "ants", "bees"):
        session.label(session.queue[0].row, name, "")
        session.assess()
    assert [one.labels for one in session.assessments] == [0, 1, 2, 3]
    assert {one.accuracy for one in session.assessments} == {None}
    assert session.assessments[-1].note == (
        "The accuracy is estimated as soon as two classes have two different images each."
    )
    session.label(session.queue[0].row, "bees", "")
    session.assess()
    assert session.assessments[-1].accuracy is not None
    assert session.assessments[-1].accuracy.n == 4


def test_what_the_doctor_doubts_is_corrected_or_confirmed(photos: Path) -> None:
    session = open_session(photos)
    rows = label_all(session, 40)
    wrong, other = rows[5], rows[9]
    for row in (wrong, other):
        session.label(row, {"ants": "bees", "bees": "ants"}[kind_of(session, row)], kind_of(session, row))
    session.assess()
    assert {one.row for one in session.doubts} >= {wrong, other}
    (doubt,) = (one for one in session.doubts if one.row == wrong)
    assert (doubt.label, doubt.suggested) == (session.labels[wrong], kind_of(session, wrong))
    session.label(wrong, doubt.suggested, doubt.label)
    session.skip(other, session.labels[other])  # the label is right, the person says
    assert not {wrong, other} & {one.row for one in session.doubts}
    session.assess()
    assert not {wrong, other} & {one.row for one in session.doubts}
    again = open_session(photos)
    again.assess()
    assert other not in {one.row for one in again.doubts}
    assert any(one.row == other for one in again.assessments[-1].doubts)


def test_another_tab_does_not_overwrite_a_label(photos: Path) -> None:
    session = open_session(photos)
    row = session.queue[0].row
    session.label(row, "ants", "")
    with pytest.raises(ChangedMeanwhileError, match="in another tab in the meantime: ants"):
        session.label(row, "bees", "")
    assert session.labels[row] == "ants"


def test_a_table_that_another_program_changed_is_not_overwritten(photos: Path) -> None:
    session, second = open_session(photos), open_session(photos)
    first, other = session.queue[0].row, session.queue[1].row
    session.label(first, "ants", "")
    with pytest.raises(RunError, match=r"changed by another program.*not saved.*Start the server again"):
        second.label(other, "bees", "")
    assert second.labels[other] == ""
    third = open_session(photos)
    third.label(other, "bees", "")
    assert sorted(third.history) == sorted([first, other])


def test_a_label_that_cannot_be_saved_is_not_taken(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(photos)
    row = session.queue[0].row
    with monkeypatch.context() as patch:
        patch.setattr(session._table, "write", lambda *_: (_ for _ in ()).throw(OutputError(28, "no space left")))
        with pytest.raises(OutputError):
            session.label(row, "ants", "")
    assert (session.labels[row], session.history, session.queue[0].row) == ("", [], row)
    session.label(row, "ants", "")
    assert session.history == [row]


def test_labels_that_were_filled_in_by_hand_count(photos: Path) -> None:
    session = open_session(photos)
    session.label(session.queue[0].row, "ants", "")
    rows = read_table(session.path)
    rows[30]["label"] = "bees"
    with session.path.open("w", newline="", encoding="utf-8-sig") as file:  # as a spreadsheet writes it
        writer = csv.DictWriter(file, [*rows[0]], lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    again = open_session(photos)
    assert (again.labeled, again.changes) == (2, 2)
    assert f"photos/{again.cache.samples.ids[again.history[-1]]}" == rows[30]["path"]


def test_an_empty_cell_does_not_take_a_label_from_the_cache(photos: Path) -> None:
    session = open_session(photos)
    label_all(session, 6)
    stale = session.path.read_text()
    session.label(session.queue[0].row, "ants", "")
    update(session.cache.path, session.path, backbone=toy_backbone(), workers=1)
    session.path.write_text(stale)
    after = LabelSession(FeatureCache.open(session.cache.path), session.path)
    assert (after.labeled, after.changes) == (7, 0)


def test_a_failed_step_in_the_background_is_said_and_the_next_label_tries_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(photos)

    errors = []

    def fail() -> None:
        monkeypatch.setattr(session, "assess", lambda: (errors.append(session.error), session.close()))
        raise MemoryError("no memory")

    monkeypatch.setattr(session, "assess", fail)
    session.is_assessing = True
    with monkeypatch.context() as patch:
        patch.setattr(session._condition, "wait_for", lambda is_due: is_due() or session.label(0, "ants", ""))
        session.work()
    assert (session.labels[0], errors, session.error) == ("ants", ["no memory"], "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("  ", "needs a name"), ("a|b", r"must not contain \|"), ("a\nb", "line breaks"), ("-1", "not known"),
     ("x" * 201, "at most 200")],
)  # fmt: skip
def test_a_name_that_cannot_be_saved_is_refused(name: str, reason: str, photos: Path) -> None:
    session = open_session(photos)
    with pytest.raises(SpecError, match=reason):
        session.label(session.queue[0].row, name, "")
    assert not session.path.exists()


def test_one_name_in_two_unicode_forms_is_one_class() -> None:
    assert check_name(" a\u0308pfel ") == "\u00e4pfel"


def test_data_that_is_not_that_of_the_cache_is_refused(photos: Path, tmp_path: Path) -> None:
    cache = FeatureCache.open(tmp_path / "cache.h5")
    tinted(tmp_path / "other", 3)
    with pytest.raises(CacheMismatchError, match=r"37 of 40 images .*for example 003\.png.*--data"):
        LabelSession(cache, tmp_path / "other" / "photos")
    for path in photos.iterdir():
        random_image(1000).save(path)
    with pytest.raises(DataLayoutError, match=r"none of the first 5 images .*not those of the cache.*--data"):
        LabelSession(cache, photos)


def test_labels_in_the_data_that_the_cache_lacks_are_not_passed_over(photos: Path) -> None:
    session = open_session(photos)
    update(session.cache.path, photos, backbone=toy_backbone(), workers=1)
    table = photos.parent / "by-hand.csv"
    suggest(session.cache, data=photos).write_table(table)
    update(session.cache.path, table, backbone=toy_backbone(), workers=1)
    table.write_text(table.read_text().replace("photos/003.png,,", "photos/003.png,ants,"))
    cache = FeatureCache.open(session.cache.path)
    with pytest.raises(
        CacheMismatchError, match=r"1 images .*label in .*by-hand.csv.*003\.png.*`featcache update .*first"
    ):
        LabelSession(cache, table)
    update(cache.path, table, backbone=toy_backbone(), workers=1)
    assert LabelSession(FeatureCache.open(cache.path), table).labeled == 1


def test_a_class_keeps_the_name_that_the_cache_has(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Also in another Unicode form than that of names that are typed."""
    decomposed = "a\u0308pfel"
    root = make_folder({decomposed: 3, "birnen": 3, "unlabeled": 2})
    extract(root, tmp_path / "cache.h5", backbone=toy_backbone(), workers=1, views=0)
    session = LabelSession(FeatureCache.open(tmp_path / "cache.h5"), root)
    row = session.queue[0].row
    session.label(row, session.classes[0], "")
    assert session.classes == [decomposed, "birnen"]
    assert session.labels[row] == decomposed
    session.label(row, "", decomposed)
    assert session.changes == 0  # as it was


def test_a_table_of_something_else_is_not_overwritten(photos: Path) -> None:
    path = photos.parent / "cache.labels.csv"
    path.write_text("name,price\na,1\n")
    with pytest.raises(DataLayoutError, match=r"its columns are name, price, expected path and label\. Move it away"):
        open_session(photos)
    path.write_text("path,label\nphotos/999.png,ants\n")
    with pytest.raises(DataLayoutError, match=r"row 2: photos/999\.png is not in the cache.*move the table away"):
        open_session(photos)


def test_caches_that_it_cannot_label_are_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    with pytest.raises(CacheMismatchError, match="arrays"):
        LabelSession(FeatureCache.from_arrays(x, None), tmp_path)
    several = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [-1, -1]])
    with pytest.raises(CacheMismatchError, match="several labels"):
        LabelSession(FeatureCache.from_arrays(x, several), tmp_path)
    with pytest.raises(SpecError, match="`featcache pull` it first"):
        module.refuse_remote("s3://bucket/cache.h5")


def test_splits_and_groups_of_the_data_stay(tmp_path: Path) -> None:
    folder = tinted(tmp_path, 12)
    table = tmp_path / "data.csv"
    rows = [("path", "species", "split", "group"), *(
        (f"photos/{n:03d}.png", ["ants", "bees"][n % 2] if n >= 6 else "", "val" if n >= 8 else "train", f"g{n // 2}")
        for n in range(12)
    )]  # fmt: skip
    table.write_text("\n".join(map(",".join, rows)))
    out = tmp_path / "cache.h5"
    extract(table, out, backbone=toy_backbone(), workers=1, views=0, label_column="species")
    session = LabelSession(FeatureCache.open(out), table)
    assert {session.cache.samples.ids[one.row] for one in session.queue} == {f"photos/{n:03d}.png" for n in range(6)}
    label_all(session, 6)
    assert [*read_table(session.path)[0]] == ["path", "species", "reason", "split", "group"]
    update(out, session.path, backbone=toy_backbone(), workers=1)
    cache = FeatureCache.open(out)
    assert (len(cache.samples.rows("train")), len(cache.samples.rows("val"))) == (8, 4)
    assert sorted(cache.samples.groups) == sorted(row[3] for row in rows[1:])
    assert folder.exists()


def labels_by_content(samples: Samples) -> list[tuple[bytes, str]]:
    """Sorted: equal texts may trade their labels."""
    labels = format_labels(samples.labels, samples.classes)
    return sorted(zip(map(bytes, samples.sha256), labels, strict=True))


@pytest.mark.parametrize("column", [None, "review", "title,body"])
def test_texts_are_labeled_and_read_back(column: str | None, tmp_path: Path) -> None:
    names = (column or "text").split(",")
    texts = ["=SUM(1)", 'a "quoted" good', "two\nlines", "comma, and bad", "plain film", "plain film", "very dull"]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        rows = [[text, f"body {row}" if row % 2 else ""][: len(names)] for row, text in enumerate(texts)]
        csv.writer(file).writerows([[*names, "label"], *([*row, ""] for row in rows)])
    out = tmp_path / "cache.h5"
    extract(tmp_path / "texts.csv", out, backbone=toy_text_encoder(), text_column=column)
    session = LabelSession(FeatureCache.open(out), tmp_path / "texts.csv")
    order = [one.row for one in session.queue]
    assert len(order) == 7
    for number, row in enumerate(order):
        session.label(row, ["good", "bad"][number % 2], "")
    again = LabelSession(FeatureCache.open(out), tmp_path / "texts.csv")
    assert (again.labels, again.history) == (session.labels, order)
    assert again.queue == []
    update(out, session.path, backbone=toy_text_encoder())
    cache = FeatureCache.open(out)
    assert labels_by_content(cache.samples) == labels_by_content(
        relabel(session.cache, dict(enumerate(session.labels))).samples
    )


def test_a_cache_with_all_labels_is_looked_through(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"ants": 14, "bees": 14})
    out = tmp_path / "cache.h5"
    extract(root, out, backbone=toy_backbone(), workers=1, views=2)
    session = LabelSession(FeatureCache.open(out), root)
    assert (session.queue, session.labeled) == ([], 28)
    session.assess()
    assert session.assessments[-1].accuracy is not None
    assert session.assessments[-1].accuracy.n == 28


def test_doubts_name_the_rows_of_the_cache() -> None:
    y = np.array(["a", "b"] * 40)
    x = np.random.default_rng(0).normal(size=(80, 4)) + 6 * (y == "b")[:, None]
    y[6] = "b"
    cache = FeatureCache.from_arrays(x, y)
    row = cache.samples.ids.index("06")
    assert any(one[:3] == Doubt(row, "b", "a", 0.0, True)[:3] and one.is_wrong for one in assess(cache).doubts)


def test_a_table_that_is_older_than_other_labels_of_the_cache_is_refused(photos: Path) -> None:
    """It would take them back: the cache was corrected since, by other means."""
    session = open_session(photos)
    (row,) = label_all(session, 1)
    name, cache = session.cache.samples.ids[row], photos.parent / "cache.h5"
    update(cache, session.path, backbone=toy_backbone())
    other = photos.parent / "fixed.csv"
    other.write_text(session.path.read_text().replace(f",{kind_of(session, row)}", ",wasps"))
    update(cache, other, backbone=toy_backbone())
    assert format_labels(FeatureCache.open(cache).samples.labels, ("wasps",)).count("wasps") == 1
    os.utime(session.path, (0, 0))
    with pytest.raises(
        CacheMismatchError, match=f"1 label of it is not that of the cache: .*{name} is wasps in the cache"
    ):
        LabelSession(FeatureCache.open(cache), str(other))


def test_any_error_of_the_work_is_shown_and_the_next_label_tries_again(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(photos)

    def fail(*_: object) -> None:
        session.close()
        raise TypeError("broken")

    monkeypatch.setattr(module, "assess", fail)
    session.is_choosing = False
    session.work()
    assert (session.error, session.is_assessing) == ("broken", False)
