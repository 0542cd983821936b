from __future__ import annotations

import pytest

from featcache._utils.formatting import split_names
from featcache.core.layer_names import choose_layers, describe_layers, grid_side, join_layers, parse_layer
from featcache.errors import SpecError

THERE = (
    *("penultimate", "layer1", "layer1:max", "layer1:grid", "layer2", "layer2:grid7"),
    *("blocks.2:cls", "blocks.2:mean"),
)


def test_many_layers_are_described_by_module() -> None:
    assert describe_layers({"penultimate": 3}) == "penultimate (width 3)"
    of_texts = {f"layer.{n}:{pool}": 8 for n in (1, 2, 3) for pool in ("cls", "mean", "max")}
    del of_texts["layer.3:mean"]
    assert describe_layers({"penultimate": 8, **of_texts}) == (
        "9 layers: penultimate (width 8); layer.1 to layer.2: cls, mean, max (width 24 each); "
        "layer.3: cls, max (width 16)"
    )
    of_images = {"layer1": 4, "layer1:grid": 16, "layer2": 8, "layer2:grid": 32}
    assert describe_layers({"penultimate": 8, **of_images}) == (
        "5 layers: penultimate (width 8); layer1: mean, grid (width 20); layer2: mean, grid (width 40)"
    )


def test_layers_are_joined_by_commas_and_each_is_named_once() -> None:
    assert split_names("layer1, penultimate,,layer1") == ("layer1", "penultimate")
    assert split_names(join_layers(THERE)) == THERE
    assert split_names(["layer1", "penultimate"]) == ("layer1", "penultimate")


@pytest.mark.parametrize(
    ("layer", "parsed"),
    [("penultimate", ("penultimate", "")), ("layer1:max", ("layer1", "max")), ("a.b:grid14", ("a.b", "grid14"))],
)
def test_a_layer_is_a_module_and_how_it_is_pooled(layer: str, parsed: tuple[str, str]) -> None:
    assert parse_layer(layer) == parsed


@pytest.mark.parametrize(
    "pool",
    [
        *("median", "", "grid-1", "grid0x", "grid²", "Max", "grid0", "grid07", "grid65", "grid99999999"),
        pytest.param("grid" + "9" * 5000, id="thousands of digits"),
    ],
)
def test_a_pool_that_there_is_not_is_refused(pool: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_layer(f"layer1:{pool}")
    assert error.value.args[0] == (  # str() is cut to a screen
        f"layer 'layer1:{pool}' is pooled by {pool!r}; it must be one of mean, max, std, grid, cls, or grid1 to grid64"
    )


def test_the_side_of_a_grid() -> None:
    assert [grid_side(pool) for pool in ("grid", "grid1", "grid14", "grid64")] == [2, 1, 14, 64]
    assert [grid_side(pool) for pool in ("max", "", "gridlock", "grid65")] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("penultimate", ("penultimate",)),
        ("last", ("penultimate",)),
        ("layer2,layer1", ("layer2", "layer1")),
        ("stages", ("penultimate", "layer1", "layer2", "blocks.2:cls", "blocks.2:mean")),
        ("all", tuple(layer for layer in THERE if layer != "layer2:grid7")),
        ("layer2:grid7,stages", ("layer2:grid7", "penultimate", "layer1", "layer2", "blocks.2:cls", "blocks.2:mean")),
    ],
)
def test_what_is_asked_for_of_what_is_there(asked: str, chosen: tuple[str, ...]) -> None:
    assert choose_layers(asked, THERE) == chosen


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(SpecError, match=r"^there is no layer 'layer9'; the layers are penultimate, layer1$"):
        choose_layers("layer1,layer9", ("penultimate", "layer1"))
    with pytest.raises(SpecError, match=r"^there are no stages; the layers are penultimate, layer1:max$"):
        choose_layers("stages", ("penultimate", "layer1:max"))
    with pytest.raises(SpecError, match=r"^',' names no layer; there are penultimate$"):
        choose_layers(",", ("penultimate",))


def test_stages_of_an_encoder_of_texts_are_the_means_of_the_upper_half() -> None:
    pools = ("cls", "mean", "max")
    every = ("penultimate", *(f"layer.{number}:{pool}" for number in range(1, 7) for pool in pools))
    stages = ("penultimate", "layer.4:mean", "layer.5:mean", "layer.6:mean")
    assert choose_layers("stages", every) == choose_layers("stages", stages) == stages
    without_last = tuple(layer for layer in every if layer != "layer.6:mean")  # it equals the penultimate features
    assert choose_layers("stages", without_last) == stages[:3]
    assert choose_layers("stages", ("penultimate", "layer1", "layer2:mean")) == ("penultimate", "layer1", "layer2:mean")
