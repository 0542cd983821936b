"""`similar`: the neighbors of pictures and texts are those that their features have in numpy."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.analysis.similar.similar import similar
from featcache.backbones.backbone import Backbone
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import (
    BackboneError,
    CacheIncompleteError,
    CacheMismatchError,
    DataLayoutError,
    EmptyFolderError,
)
from featcache.extraction.extract import extract
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from toys import ToyNet, random_image, toy_answer, toy_backbone
from toytexts import toy_text_encoder


@pytest.fixture
def cache(split_folder: Path, tmp_path: Path) -> FeatureCache:
    (split_folder / "train/ants/broken.png").write_bytes(b"")
    return extract(split_folder, tmp_path / "c.h5", backbone=toy_backbone(), views=1, workers=2, dtype="float32").cache


def features_of(cache: FeatureCache, path: Path) -> np.ndarray:
    view = make_views(decode(path.read_bytes()), cache.spec.image_view, b"", range(1))
    return np.asarray(toy_answer(np.asarray(view))[0])


def expected(cache: FeatureCache, query: np.ndarray, splits: tuple[str, ...]) -> list[tuple[str, float]]:
    """(id, cosine) of all samples, the most similar first."""
    found = []
    for split in splits:
        features = cache.features(split)
        for name, x in zip(features.samples.ids, np.asarray(features.clean(), np.float64), strict=True):
            found.append((name, float(x @ query / np.linalg.norm(x) / np.linalg.norm(query))))
    return sorted(found, key=lambda pair: -pair[1])


def test_new_pictures_have_the_neighbors_of_numpy(cache: FeatureCache, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        random_image(500 + number, tint=number).save(path)
    for splits, split in ((("train", "val"), "all"), (("val",), "val")):
        result = similar(cache, paths, n=4, split=split, backbone=toy_backbone())
        assert [query.path for query in result.queries] == [str(path) for path in paths]
        for query, path in zip(result.queries, paths, strict=True):
            near = expected(cache, features_of(cache, path), splits)[:4]
            assert [one.path for one in query.neighbors] == [name for name, _ in near]
            np.testing.assert_allclose([one.similarity for one in query.neighbors], [c for _, c in near], atol=1e-5)
            assert [one.label for one in query.neighbors] == [name.split("/")[1] for name, _ in near]
            assert [one.split for one in query.neighbors] == [name.split("/")[0] for name, _ in near]
            assert (query.left_out, query.error) == ((), None)
        assert result.compared == sum(len(cache.features(name).samples) for name in splits)


def test_a_sample_of_the_cache_is_left_out_of_its_own_neighbors(cache: FeatureCache, split_folder: Path) -> None:
    inside, copy = split_folder / "train/bees/002.png", split_folder.parent / "another-name.png"
    copy.write_bytes(inside.read_bytes())
    result = similar(cache, [inside, copy, split_folder / "train/ants/broken.png"], n=30, backbone=toy_backbone())
    first, second, broken = result.queries
    assert first.left_out == second.left_out == ("train/bees/002.png",)
    assert first.neighbors == second.neighbors
    names = [one.path for one in first.neighbors]
    assert sorted(names) == sorted({*cache.samples.ids} - {"train/bees/002.png", "train/ants/broken.png"})
    assert names == [
        name
        for name, _ in expected(cache, features_of(cache, inside), ("train", "val"))
        if name != "train/bees/002.png"
    ]
    assert (broken.neighbors, broken.error) == ((), "the file is empty (0 bytes)")
    assert result.notes == [
        "2 of 3 queries are in the cache by their content, and left out of their own neighbors",
        "1 of 3 images could not be read",
    ]
    assert "left out, as it is the same: train/bees/002.png" in str(result)


def test_all_copies_of_a_query_are_left_out_and_of_many_queries_each_its_own(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    x[[4, 9]] = x[2]
    cache = FeatureCache.from_arrays(x, ["a", "b"] * 15, split=["train"] * 25 + ["val"] * 5)
    result = similar(cache, np.concatenate([x, x + 1]), n=29)
    for row, query in enumerate(result.queries):
        same = {2, 4, 9} if row in (2, 4, 9) else {row} if row < 30 else set[int]()
        assert {int(name) for name in query.left_out} == same
        assert not {int(one.path) for one in query.neighbors} & same
        assert len(query.neighbors) == min(29, 30 - len(same))


def test_pictures_in_memory_and_folders(cache: FeatureCache, split_folder: Path) -> None:
    path = split_folder / "val/ants/000.png"
    pixels = decode(path.read_bytes())
    (of_file,) = similar(cache, path, n=3, backbone=toy_backbone()).queries
    with Image.open(path) as opened:
        opened.load()
    for sample in (pixels, opened):
        (query,) = similar(cache, sample, n=4, backbone=toy_backbone()).queries
        assert (query.path, query.left_out, query.neighbors[0].path) == ("", (), "val/ants/000.png")
        assert query.neighbors[1:] == of_file.neighbors
        assert query.neighbors[0].similarity == pytest.approx(1, abs=1e-6)
    assert len(similar(cache, split_folder / "val", backbone=toy_backbone()).queries) == 5
    assert of_file.picture is not None
    np.testing.assert_array_equal(of_file.picture, make_views(pixels, cache.spec.image_view, b"", range(1))[0])


def test_the_network_is_that_of_the_cache(cache: FeatureCache, split_folder: Path, tmp_path: Path) -> None:
    net = ToyNet()
    net.norm.running_var *= 2
    other = Backbone(net, name="toy", image_size=8, resize_size=10, mean=toy_backbone().mean, std=toy_backbone().std)
    with pytest.raises(CacheMismatchError, match="was made with weights"):
        similar(cache, split_folder / "val", backbone=other)
    with pytest.raises(BackboneError):
        similar(cache, split_folder / "val")
    for options, error, text in (
        ({"split": "test"}, CacheIncompleteError, "has no images of test; it has 14 train, 5 val"),
        ({"layer": "blocks.3"}, CacheIncompleteError, "has no layer 'blocks.3'"),
        ({"n": 0}, DataLayoutError, "n is 0"),
    ):
        with pytest.raises(error, match=text):
            similar(cache, split_folder / "val", backbone=toy_backbone(), **options)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyFolderError):
        similar(cache, tmp_path / "empty", backbone=toy_backbone())


def test_texts_show_their_words_and_copies_in_another_case_are_left_out(tmp_path: Path) -> None:
    texts = ["good film", "GOOD  film", "very good", "bad film", "dull", "not good", "a bad dull film", "the film"]
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label", "split"])
        table.writerows([text, "ab"[row % 2], "train" if row < 6 else "val"] for row, text in enumerate(texts))
    cache = extract(
        tmp_path / "reviews.csv", tmp_path / "c.h5", backbone=toy_text_encoder(), views=0, dtype="float32"
    ).cache
    result = similar(cache, ["good film", "the very dull film"], tmp_path / "reviews.csv", n=3,
                     backbone=toy_text_encoder())  # fmt: skip
    first, second = result.queries
    assert len(first.left_out) == 2  # with the copy in another case
    words = [one.text for one in first.neighbors]
    assert not {"good film", "GOOD film"} & {*words}
    assert (first.text, second.left_out) == ("good film", ())
    vectors = {text: toy_text_encoder().embed([text])[0] for text in texts}
    query = toy_text_encoder().embed(["the very dull film"])[0]
    cosines = {text: float(x @ query / np.linalg.norm(x) / np.linalg.norm(query)) for text, x in vectors.items()}
    near = sorted(cosines, key=lambda text: -cosines[text])[:3]
    assert [one.text for one in second.neighbors] == [" ".join(text.split()) for text in near]
    assert all(text in str(result) for text in ("good film", *filter(None, words)))
    (tmp_path / "reviews.csv").write_text("text,label,split\n" + "\n".join(f"other {row},a,train" for row in range(9)))
    changed = similar(cache, ["dull"], tmp_path / "reviews.csv", n=2, backbone=toy_text_encoder())
    assert [one.text for one in changed.queries[0].neighbors] == ["", ""]
    assert "the words of 2 texts are not shown" in changed.notes[-1]
    assert similar(cache, ["dull"], n=1, backbone=toy_text_encoder()).queries[0].neighbors[0].text is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_sample_of_arrays_with_views_is_no_neighbor_of_itself(dtype: type) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3, 6)).astype(dtype)
    cache = FeatureCache.from_arrays(x, ["a", "b"] * 20, split=["train"] * 30 + ["val"] * 10)
    (found,) = similar(cache, x[5, 0], n=39).queries
    assert found.left_out == ("05",)
    assert sorted(int(one.path) for one in found.neighbors) == [row for row in range(40) if row != 5]


def test_arrays_with_nan_are_refused() -> None:
    cache = FeatureCache.from_arrays(np.eye(6), ["a", "b"] * 3)
    with pytest.raises(DataLayoutError, match="row 1 has features that are not finite"):
        similar(cache, np.stack([np.ones(6), np.full(6, np.nan)]))


def test_arrays_are_searched_by_their_features(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    cache = FeatureCache.from_arrays(x, ["a", "b"] * 20, split=["train"] * 30 + ["val"] * 10)
    queries = np.random.default_rng(1).normal(size=(3, 5))
    result = similar(cache, queries, n=2)
    unit = x / np.linalg.norm(x, axis=1)[:, None]
    order = np.argsort(-queries @ unit.T, axis=1)[:, :2]
    assert [[int(one.path) for one in query.neighbors] for query in result.queries] == order.tolist()
    (own,) = similar(cache, x[7], n=40).queries
    assert (own.left_out, len(own.neighbors)) == (("07",), 39)
    with pytest.raises(DataLayoutError, match=r"give features of shape \(q, 5\), not of shape \(3, 4\)"):
        similar(cache, queries[:, :4])
    with pytest.raises(DataLayoutError, match="give features of shape"):
        similar(cache, "photo.jpg")


def test_the_list_and_json_have_every_neighbor(cache: FeatureCache, split_folder: Path, tmp_path: Path) -> None:
    paths = [split_folder / "val/ants/000.png", split_folder / "train/ants/broken.png"]
    result = similar(cache, paths, n=2, backbone=toy_backbone())
    result.write_list(tmp_path / "list.csv")
    rows = list(csv.DictReader((tmp_path / "list.csv").read_text().splitlines()))
    near = result.queries[0].neighbors
    assert [(row["query"], row["rank"], row["path"], row["similarity"]) for row in rows[:2]] == [
        (str(paths[0]), str(rank), one.path, f"{one.similarity:.6f}") for rank, one in enumerate(near, 1)
    ]
    assert (len(rows), rows[2]["query"], rows[2]["error"]) == (3, str(paths[1]), "the file is empty (0 bytes)")
    fields = result.to_dict()
    assert fields["queries"][0] == {
        "path": str(paths[0]),
        "neighbors": [
            {"path": one.path, "label": one.label, "split": one.split, "similarity": one.similarity} for one in near
        ],
        "left_out": ["val/ants/000.png"],
        "error": None,
    }
    assert (fields["unreadable"], fields["compared"], fields["cache"]) == (1, 18, str(cache.path))
