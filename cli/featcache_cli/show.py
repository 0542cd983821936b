"""featcache show"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featcache_cli import options
from featcache_cli.options import refuse_unknown

if TYPE_CHECKING:
    from featcache.drawing import Picture

_F = TypeVar("_F", bound=Callable[..., Any])


class _Pictures(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        refuse_unknown(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=_Pictures)
def command() -> None:
    """Draw what a cache has seen and what a model says: PNG, SVG or PDF, in light or dark.

    An SVG follows the page that shows it into light and dark, unless --dark says so for good.
    """


def _drawn(function: _F) -> _F:
    """The options of every picture."""
    function = options.as_json(function)
    function = click.option("--dark", is_flag=True, help="Light lines on dark paper.")(function)
    return options.picture_option(function, required=True)


def _save(picture: Picture, out: str, dark: bool, as_json: bool) -> None:
    from featcache.drawing import save

    path = save(picture, out, dark)
    options.print_json({"picture": str(path)}) if as_json else click.echo(path)


@command.command()
@click.argument("cache", type=click.Path())
@click.argument("data")
@click.option(
    "--images", type=click.IntRange(1, 50), default=4, show_default=True, help="Rows, of all classes in turn."
)
@click.option("--seed", default=0, show_default=True, help="Draws the images.")
@_drawn
def views(cache: str, data: str, images: int, seed: int, out: str, dark: bool, as_json: bool) -> None:
    """The augmented views of some training images of CACHE, which was made from DATA."""
    from featcache import pictures

    _save(pictures.views_picture(cache, data, images, seed), out, dark, as_json)


@command.command()
@click.argument("model", type=click.Path())
@click.argument("data")
@click.option("--images", type=click.IntRange(1, 200), default=24, show_default=True, help="How many to draw.")
@_drawn
def predictions(model: str, data: str, images: int, out: str, dark: bool, as_json: bool) -> None:
    """Val images of DATA with what MODEL takes them for, right and wrong, the surest mistakes first."""
    from featcache import pictures

    _save(pictures.predictions_picture(model, data, images), out, dark, as_json)


@command.command()
@click.argument("model", type=click.Path())
@_drawn
def confusion(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Which classes MODEL takes for which, on val."""
    from featcache import pictures

    _save(pictures.confusion_picture(model), out, dark, as_json)


@command.command()
@click.argument("model", type=click.Path())
@_drawn
def reliability(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Whether MODEL is as often right as its probabilities say, on val."""
    from featcache import pictures

    _save(pictures.reliability_picture(model), out, dark, as_json)


@command.command()
@click.argument("model", type=click.Path())
@_drawn
def history(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Loss and accuracy of MODEL by epoch, train and val."""
    from featcache import pictures

    _save(pictures.history_picture(model), out, dark, as_json)


@command.command()
@click.argument("report", type=click.Path())
@click.option(
    "--over", type=click.Choice(["views", "labels"]), help="Which, where REPORT has both. [default: the first]"
)
@_drawn
def curve(report: str, over: str | None, out: str, dark: bool, as_json: bool) -> None:
    """Accuracy and seconds against views or labels, from what `curve --json` printed or a benchmark's report.json."""
    from featcache import pictures

    _save(pictures.curve_picture(report, over), out, dark, as_json)


@command.command("map")
@click.argument("cache", type=click.Path())
@click.argument("data", required=False)
@click.option("--method", type=click.Choice(["pca", "tsne", "umap"]), default="pca", show_default=True,
              help="How they are laid out; umap comes with an extra.")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True,
              help="Which images.")  # fmt: skip
@click.option("--images", type=click.IntRange(3), default=2000, show_default=True, help="Points, at most.")
@click.option(
    "--thumbnails", type=click.IntRange(0, 50), default=12, show_default=True, help="Small pictures, at most."
)
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache.")
@click.option("--seed", default=0, show_default=True, help="Draws the images, and the map.")
@_drawn
def map_(cache: str, data: str | None, out: str, dark: bool, as_json: bool, **settings: Any) -> None:
    """The features of CACHE on a plane, coloured by class; with DATA small pictures of those among other classes."""
    from featcache import pictures

    _save(pictures.map_picture(cache, data, **settings), out, dark, as_json)
