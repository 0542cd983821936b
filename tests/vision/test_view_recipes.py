"""View recipes that other packages add by an entry point: spec, digest, views, command line."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from commands import write_folder
from featcache.cache.feature_cache import FeatureCache
from featcache.core.specs import AUGMENTS, TEXT_AUGMENTS, ExtractSpec, ViewSpec
from featcache.core.view_recipes import VIEW_RECIPES, ViewRecipe, recipe_of
from featcache.errors import CacheMismatchError, SpecError
from featcache.extraction.extract import extract
from featcache.vision.augment import make_views
from featcache_cli.main import main
from featcache_cli.options import RecipeName
from toys import toy_backbone

SHA = bytes(range(32))
RECIPE = """
import numpy as np

from featcache.core.view_recipes import ViewRecipe


def draw(image, spec, rng):
    \"\"\"One colour, drawn from the pixels of the image.\"\"\"
    row, column = (int(rng.integers(size)) for size in image.shape[:2])
    return np.broadcast_to(image[row, column], (spec.image_size, spec.image_size, 3))


PIXEL = ViewRecipe(draw, version=3)
WRONG = ViewRecipe(lambda image, spec, rng: np.zeros((1, 1, 3), np.uint8))
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the recipes pixel (version 3) and wrong."""
    monkeypatch.setattr(VIEW_RECIPES, "_entries", {name: VIEW_RECIPES.get(name) for name in VIEW_RECIPES.names()})
    info = tmp_path / "site" / "toy_views-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-views\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[featcache.views]\npixel = toy_views:PIXEL\nwrong = toy_views:WRONG\n")
    (tmp_path / "site" / "toy_views.py").write_text(RECIPE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "toy_views", raising=False)


def install_version(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of("pixel")
    monkeypatch.setitem(VIEW_RECIPES._entries, "pixel", ViewRecipe(recipe.draw, version))


def spec_of(view: ViewSpec) -> ExtractSpec:
    return ExtractSpec("net", "ab" * 32, view, views=2)


def test_the_recipes_of_featcache_are_those_that_the_specs_list() -> None:
    assert sorted(VIEW_RECIPES.names()) == sorted([*AUGMENTS, "pixel", "wrong"])


def test_name_and_version_of_an_added_recipe_are_in_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(ViewSpec(8, 10, augment="pixel"))
    assert spec.flat()["augment"] == "pixel@3"
    assert spec.flat() == {**spec_of(ViewSpec(8, 10)).flat(), "augment": "pixel@3"}
    install_version(4, monkeypatch)
    newer = spec_of(ViewSpec(8, 10, augment="pixel"))
    assert newer.digest() != spec.digest()
    assert spec.differences(newer) == [("augment", "pixel@3", "pixel@4")]


def test_a_spec_is_read_where_its_recipe_is_not_installed() -> None:
    text = spec_of(ViewSpec(8, 10)).to_json().replace('"tutorial"', '"missing@2"')
    assert ExtractSpec.from_json(text).to_json() == text


@pytest.mark.parametrize("name", ["mixup", "tutorial@1", "pixel@", "pixel@x", "@3", ""])
def test_other_names_are_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(SpecError) as error:
        ViewSpec(augment=name)
    names = "tutorial, crop, trivial, gentle, gentle-flip, none, pixel, wrong"
    assert str(error.value) == f"augment is {name!r}; it must be one of {names}"


def test_views_of_an_added_recipe_are_drawn_from_the_key() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    spec = ViewSpec(8, 10, augment="pixel")
    views = make_views(image, spec, SHA, [0, 1, 2])
    np.testing.assert_array_equal(views[0], make_views(image, ViewSpec(8, 10), SHA, [0])[0])
    assert (views[1:] == views[1:, :1, :1]).all()
    assert (views[1, 0, 0] != views[2, 0, 0]).any()
    np.testing.assert_array_equal(views[2], make_views(image, spec, SHA, [2])[0])
    other_seed = make_views(image, dataclasses.replace(spec, seed=1), SHA, [2])[0]
    assert (views[2] != other_seed).any()


def test_views_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ViewSpec(8, 10, augment="pixel")
    install_version(4, monkeypatch)
    with pytest.raises(SpecError) as error:
        make_views(np.zeros((9, 9, 3), np.uint8), spec, SHA, [1])
    assert str(error.value) == (
        "the views need version 3 of the view recipe 'pixel'; version 4 is installed. Install the package that has "
        "version 3, or extract the features again."
    )


def test_a_recipe_that_returns_no_view_is_refused() -> None:
    with pytest.raises(SpecError) as error:
        make_views(np.zeros((9, 9, 3), np.uint8), ViewSpec(8, 10, augment="wrong"), SHA, [1])
    assert str(error.value) == (
        "the view recipe 'wrong@1' returns shape (1, 1, 3) and type uint8; expected (8, 8, 3) and uint8. Correct the "
        "recipe."
    )


def test_a_cache_of_an_added_recipe_is_resumed_and_refused_by_name(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "photos", {"ants": 4, "bees": 4})
    out = tmp_path / "a.h5"
    first = extract(data, out, backbone=toy_backbone(), views=2, augment="pixel").cache
    assert FeatureCache.open(out).spec.view.augment == "pixel@3"
    again = extract(data, out, backbone=toy_backbone(), views=2, augment="pixel").cache
    assert again.spec.digest() == first.spec.digest()
    with pytest.raises(CacheMismatchError, match=r"was made with augment=pixel@3, you asked for tutorial\."):
        extract(data, out, backbone=toy_backbone(), views=2, augment="tutorial")


@pytest.mark.parametrize("name", ["pixel", "pixel@3", "crop"])
def test_the_command_line_takes_the_name_of_an_added_recipe(name: str) -> None:
    assert RecipeName().convert(name, None, None) == name


def test_the_command_line_refuses_other_names() -> None:
    ran = CliRunner().invoke(main, ["extract", "photos", "--augment", "mixup"])
    assert ran.exit_code == 2
    names = ", ".join(map(repr, dict.fromkeys((*AUGMENTS, *TEXT_AUGMENTS))))
    assert f"Invalid value for '--augment': 'mixup' is not one of {names}." in " ".join(ran.output.split())
