"""featcache show"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featcache_cli import options
from featcache_cli.options import refuse_unknown
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.reports.style import DrawFigure

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
    function = click.option("--dark", is_flag=True, help="Draw light lines on dark paper.")(function)
    return options.picture_option(function, required=True)


def _save(picture: DrawFigure, out: str, dark: bool, as_json: bool) -> None:
    from featcache.reports.style import save

    path = save(picture, out, dark)
    options.print_json({"picture": str(path)}) if as_json else click.echo(safe(str(path)))


@command.command(cls=options.Command)
@click.argument("cache", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option(
    "--images",
    type=click.IntRange(1, 50),
    default=4,
    show_default=True,
    help="How many images to show, of all classes in turn.",
)
@click.option("--seed", default=0, show_default=True, help="The seed that images are drawn by.")
@_drawn
def views(cache: str, data: str, images: int, seed: int, out: str, dark: bool, as_json: bool) -> None:
    """Draw the augmented views of some training images of CACHE, which was made from DATA."""
    from featcache.reports import show as pictures

    _save(pictures.views_picture(cache, data, images, seed), out, dark, as_json)


@command.command(cls=options.Command)
@click.argument("model", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option("--images", type=click.IntRange(1, 200), default=24, show_default=True, help="How many images to show.")
@_drawn
def predictions(model: str, data: str, images: int, out: str, dark: bool, as_json: bool) -> None:
    """Draw val images of DATA with what MODEL takes them for, right and wrong, the surest mistakes first."""
    from featcache.reports import show as pictures

    _save(pictures.predictions_picture(model, data, images), out, dark, as_json)


@command.command(cls=options.Command)
@click.argument("model", type=options.PATH)
@_drawn
def confusion(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw which classes MODEL takes for which, on val."""
    from featcache.reports import show as pictures

    _save(pictures.confusion_picture(model), out, dark, as_json)


@command.command(cls=options.Command)
@click.argument("model", type=options.PATH)
@_drawn
def reliability(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw whether MODEL is as often right as its probabilities say, on val."""
    from featcache.reports import show as pictures

    _save(pictures.reliability_picture(model), out, dark, as_json)


@command.command(cls=options.Command)
@click.argument("model", type=options.PATH)
@_drawn
def history(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw loss and accuracy of MODEL by epoch, of train and val."""
    from featcache.reports import show as pictures

    _save(pictures.history_picture(model), out, dark, as_json)


@command.command(cls=options.Command)
@click.argument("report", type=options.PATH)
@click.option(
    "--over", type=click.Choice(["views", "labels"]), help="Which curve, where REPORT has both. [default: the first]"
)
@_drawn
def curve(report: str, over: str | None, out: str, dark: bool, as_json: bool) -> None:
    """Draw accuracy and seconds against views or labels.

    REPORT is what `curve --json` printed, or a benchmark's report.json.
    """
    from featcache.reports import show as pictures

    _save(pictures.curve_picture(report, over), out, dark, as_json)


@command.command("map", cls=options.Command)
@click.argument("cache", type=options.PATH)
@click.argument("data", required=False, type=options.PATH)
@click.option("--method", type=click.Choice(["pca", "tsne", "umap"]), default="pca", show_default=True,
              help="How features are laid out; umap comes with an extra.")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True,
              help="Which images to show.")  # fmt: skip
@click.option(
    "--images", type=click.IntRange(3), default=2000, show_default=True, help="How many points to show at most."
)
@click.option(
    "--thumbnails",
    type=click.IntRange(0, 50),
    default=12,
    show_default=True,
    help="How many small pictures to show at most.",
)
@click.option("--layer", default="penultimate", show_default=True, help="Which features of the cache are used.")
@click.option("--seed", default=0, show_default=True, help="The seed of the images and of the map.")
@_drawn
def map_(cache: str, data: str | None, out: str, dark: bool, as_json: bool, **settings: Any) -> None:
    """Draw the features of CACHE on a plane, coloured by class.

    With DATA there are small pictures of images that lie among other classes.
    """
    from featcache.reports import show as pictures

    _save(pictures.map_picture(cache, data, **settings), out, dark, as_json)
