from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.core.specs import AUGMENTS, ExtractSpec, TextSpec, ViewSpec, cached_augment
from featcache.errors import SpecError

SPEC = ExtractSpec(
    backbone="toy",
    weights_sha256="ab" * 32,
    view=ViewSpec(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    views=3,
)
JSON = (
    '{"augment":"tutorial","backbone":"toy","dtype":"float16","image_size":224,"interpolation":"bilinear",'
    '"layers":["penultimate"],"mean":[0.5,0.5,0.5],"precision":"fp32","resize_size":256,"seed":0,'
    '"std":[0.25,0.25,0.25],"views":3,"weights_sha256":"' + "ab" * 32 + '"}'
)
OTHER_VIEW = {"image_size": 223, "resize_size": 255, "interpolation": "bicubic", "augment": "crop", "seed": 1} | {
    "value_range": (0, 4095),
    "decode_side": 512,
    "mean": (0.5, 0.5, 0.25),
    "std": (0.25, 0.25, 0.5),
}
OTHER = {
    "backbone": "resnet18",
    "weights_sha256": "cd" * 32,
    "views": 4,
    "layers": ("stage1", "penultimate"),
    "precision": "bf16",
    "dtype": "float32",
    "val_views": 2,
}

NEWER = {"val_views": 0, "value_range": None, "decode_side": None}
"""What caches from before these fields mean."""

TEXT = st.text('ab/:"\\ß\n\u4e2d')
RGB = st.tuples(*[st.floats(0, 1)] * 3)
SIZES = st.tuples(st.integers(1, 2048), st.integers(1, 2048)).map(sorted)
VIEW_SPECS = st.builds(
    lambda sizes, **fields: ViewSpec(*sizes, **fields),
    SIZES,
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    augment=st.sampled_from(AUGMENTS),
    seed=st.integers(-(2**63), 2**63),
    value_range=st.none() | st.tuples(st.floats(-1e9, 0), st.floats(1, 1e9)),
    decode_side=st.none() | st.integers(2048, 9999),
    mean=RGB,
    std=RGB,
)
SPECS = st.builds(
    ExtractSpec,
    backbone=TEXT,
    weights_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    view=VIEW_SPECS,
    views=st.integers(0, 65534),
    layers=st.lists(TEXT.filter(bool), min_size=1, unique=True).map(tuple),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    dtype=st.sampled_from(["float16", "float32"]),
)


def changed(name: str) -> ExtractSpec:
    if name in OTHER_VIEW:
        return dataclasses.replace(SPEC, view=dataclasses.replace(SPEC.view, **{name: OTHER_VIEW[name]}))
    return dataclasses.replace(SPEC, **{name: OTHER[name]})


def test_the_canonical_json_and_the_digest_are_pinned() -> None:
    assert SPEC.to_json() == JSON
    assert SPEC.digest() == "794e9583197714d2a59df8ab599c354cf3092b5d0f3baeff7361fbed58ba2250"
    assert SPEC.digest() == hashlib.sha256(JSON.encode()).hexdigest()


def test_the_fields_changed_below_are_all_there_are() -> None:
    assert set(OTHER_VIEW) == {field.name for field in dataclasses.fields(ViewSpec)}
    assert {*OTHER, "view"} == {field.name for field in dataclasses.fields(ExtractSpec)}
    assert set(SPEC.flat()) == {*OTHER_VIEW, *OTHER} - set(NEWER)


@pytest.mark.parametrize("name", [*OTHER_VIEW, *OTHER])
def test_every_field_changes_the_digest_and_is_named_as_the_difference(name: str) -> None:
    other = changed(name)
    assert other.digest() != SPEC.digest()
    assert SPEC.differences(other) == [(name, SPEC.flat().get(name, NEWER.get(name)), other.flat()[name])]
    assert other.differences(SPEC) == [(name, other.flat()[name], SPEC.flat().get(name, NEWER.get(name)))]


def test_the_recipe_is_no_difference_where_one_has_no_views() -> None:
    crop, clean = changed("augment"), dataclasses.replace(SPEC, views=0)
    assert clean.differences(crop) == [("views", 0, 3)]
    assert crop.differences(clean) == [("views", 3, 0)]
    assert clean.differences(dataclasses.replace(crop, views=0)) == []
    assert clean.digest() != dataclasses.replace(crop, views=0).digest()


@pytest.mark.parametrize(
    ("augment", "views", "recipe"),
    [(None, 0, "tutorial"), (None, 1, "gentle"), ("crop", 0, "crop"), ("tutorial", 4, "tutorial")],
)
def test_the_recipe_of_a_cache(augment: str | None, views: int, recipe: str) -> None:
    assert cached_augment(augment, views) == recipe


def test_differences_are_given_as_json_values() -> None:
    other = dataclasses.replace(changed("image_size"), layers=("stage1", "penultimate"))
    assert sorted(SPEC.differences(other)) == [
        ("image_size", 224, 223),
        ("layers", ["penultimate"], ["stage1", "penultimate"]),
    ]
    assert SPEC.differences(SPEC) == []


@settings(deadline=None)
@given(SPECS)
def test_json_round_trip(spec: ExtractSpec) -> None:
    again = ExtractSpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest() == spec.digest()
    assert json.loads(spec.to_json()) == spec.flat()


@settings(deadline=None)
@given(SPECS, SPECS)
def test_digests_are_equal_exactly_where_nothing_differs(one: ExtractSpec, two: ExtractSpec) -> None:
    assert (one.digest() == two.digest()) == (one.differences(two) == [])
    assert (one == two) == (one.differences(two) == [])


def test_equal_specs_have_equal_digests() -> None:
    whole = dataclasses.replace(SPEC, view=ViewSpec(std=(1, 1, 1)))
    floats = dataclasses.replace(SPEC, view=ViewSpec(std=(1.0, 1.0, 1.0)))
    assert whole == floats
    assert whole.digest() == floats.digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "[]",
        "{}",
        '{"a": 1}',
        JSON.replace('"mean":[0.5,0.5,0.5],', ""),
        JSON[:-1] + ',"extra":1}',
    ],
)
def test_text_that_is_no_spec_raises_what_from_json_promises(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        ExtractSpec.from_json(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"augment": "mixup"},
            "augment is 'mixup'; it must be one of tutorial, crop, trivial, gentle, gentle-flip, none",
        ),
        (
            {"image_size": 300, "resize_size": 256},
            "image_size 300 and resize_size 256: need 1 <= image_size <= resize_size <= 4096",
        ),
        ({"image_size": 0}, "image_size 0 and resize_size 256: need 1 <= image_size <= resize_size <= 4096"),
    ],
)
def test_impossible_views_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        ViewSpec(**fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": -1}, "views is -1; it must be between 0 and 65534"),
        ({"views": 65535}, "views is 65535; it must be between 0 and 65534"),
        ({"dtype": "float64"}, "dtype is 'float64'; it must be one of float16, float32"),
        ({"layers": ()}, "layers is []; name each once, for example penultimate"),
        ({"layers": ("a", "a")}, "layers is ['a', 'a']; name each once, for example penultimate"),
        ({"layers": ("",)}, "layers is ['']; name each once, for example penultimate"),
    ],
)
def test_impossible_specs_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        dataclasses.replace(SPEC, **fields)
    assert str(caught.value) == message


def test_an_unknown_interpolation_is_refused_like_an_unknown_augment() -> None:
    with pytest.raises(ValueError, match="interpolation is 'nearest'; it must be"):
        ViewSpec(interpolation="nearest")  # type: ignore[arg-type]


def test_an_unknown_precision_is_refused_like_an_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="precision is 'int8'; it must be"):
        dataclasses.replace(SPEC, precision="int8")  # type: ignore[arg-type]


TEXT = TextSpec("ab" * 32, max_length=128, prefix="query: ", augment="word-dropout", seed=3)


def test_a_spec_of_texts_is_pinned_and_comes_back() -> None:
    spec = dataclasses.replace(SPEC, view=TEXT)
    fields = json.loads(spec.to_json())
    assert fields["modality"] == spec.modality == "text"
    assert {name: fields[name] for name in ("max_length", "prefix", "pooling", "normalize", "augment", "seed")} == {
        "max_length": 128, "prefix": "query: ", "pooling": "mean", "normalize": False, "augment": "word-dropout",
        "seed": 3,
    }  # fmt: skip
    assert "image_size" not in fields
    assert ExtractSpec.from_json(spec.to_json()) == spec
    assert (SPEC.modality, "modality" in SPEC.flat()) == ("image", False)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TextSpec)])
def test_every_field_of_texts_changes_the_digest_and_is_named_as_the_difference(name: str) -> None:
    other = {
        "tokenizer_sha256": "cd" * 32, "max_length": 64, "prefix": "", "pooling": "cls", "normalize": True,
        "augment": "none", "seed": 4, "separator": "[SEP]",
    }  # fmt: skip
    spec = dataclasses.replace(SPEC, view=TEXT)
    changed = dataclasses.replace(spec, view=dataclasses.replace(TEXT, **{name: other[name]}))
    assert changed.digest() != spec.digest()
    assert [difference[0] for difference in spec.differences(changed)] == [name]


def test_images_and_texts_differ_in_their_modality() -> None:
    texts = dataclasses.replace(SPEC, view=TEXT)
    names = [name for name, *_ in SPEC.differences(texts)]
    assert "modality" in names
    with pytest.raises(SpecError, match="this works on images only, and these are features of texts"):
        _ = texts.image_view
    with pytest.raises(SpecError, match="this works on texts only, and these are features of images"):
        _ = SPEC.text_view
    assert texts.text_view is TEXT
    assert SPEC.image_view is SPEC.view


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pooling": "sum"}, "pooling is 'sum'; it must be one of mean, cls, max"),
        ({"augment": "crop"}, "augment is 'crop'; for texts it must be one of word-dropout, sentence-crop, none"),
        ({"max_length": 0}, "max_length is 0; it must be 1 or more"),
    ],
)
def test_impossible_views_of_texts_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        TextSpec("0" * 64, **fields)
    assert str(caught.value) == message
