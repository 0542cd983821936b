"""One field is one option: its type, default and text reach signatures, docstrings and checks."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal, TypedDict, Unpack

import pytest

from featcache.core.head_options import HeadOptions
from featcache.core.options import ExtractArguments, Option, fields_of, select, takes_options, with_defaults
from featcache.finetuning.strategy import StrategyOptions
from featcache.training.config import TrainOptions

KINDS = (ExtractArguments, HeadOptions, TrainOptions, StrategyOptions)


class Base(TypedDict, total=False):
    size: Annotated[int | None, Option(None, "Side of a square.", none="as wide as high")]


class Shape(Base, total=False):
    colour: Annotated[Literal["red", "blue"], Option("red", "Colour of the square.")]


@takes_options(Shape)
def draw(path: str, *, dpi: int = 100, **options: Unpack[Shape]) -> dict[str, object]:
    """Draw.

    Parameters
    ----------
    path : str
        The file.
    {options}

    Returns
    -------
    dict
    """
    return {"path": path, "dpi": dpi, **options}


def test_a_function_gets_every_option() -> None:
    assert draw("a") == {"path": "a", "dpi": 100, "size": None, "colour": "red"}
    assert draw("a", dpi=5, colour="blue") == {"path": "a", "dpi": 5, "size": None, "colour": "blue"}


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError) as caught:
        draw("a", color="red")  # type: ignore[call-arg]
    assert str(caught.value) == "draw() got an unexpected keyword argument 'color'; the options are size, colour"


def test_help_shows_the_options() -> None:
    parameters = inspect.signature(draw).parameters
    assert {name: each.default for name, each in parameters.items() if name != "path"} == {
        "dpi": 100,
        "size": None,
        "colour": "red",
    }
    assert inspect.getdoc(draw) == (
        "Draw.\n\nParameters\n----------\npath : str\n    The file.\n"
        "size : int or None, default None\n    Side of a square. None: as wide as high.\n"
        "colour : {'red', 'blue'}, default 'red'\n    Colour of the square.\n\n"
        "Returns\n-------\ndict"
    )


def test_types_are_written_as_docstrings_write_them() -> None:
    paragraph = fields_of(HeadOptions)["thresholds"].paragraph().splitlines()[0]
    assert paragraph == "thresholds : {'f1'} or float or mapping of str to float or None, default None"


def test_the_options_of_one_step_are_selected() -> None:
    assert select(Base, {"size": 3, "colour": "red"}) == {"size": 3}
    assert with_defaults(Shape, {"size": 3}) == {"size": 3, "colour": "red"}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in fields_of(kind)])
def test_an_option_is_described_in_sentences(kind: type[Any], name: str) -> None:
    option = fields_of(kind)[name].option
    assert option.description[0].isupper()
    assert option.description.endswith(".")
    assert (option.default is None) == bool(option.none)
    assert not option.none.endswith(".")
