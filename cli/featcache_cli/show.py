"""featcache show"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featcache.core.head_options import LayerOptions
from featcache_cli import options
from featcache_cli.base import Command, refuse_unknown
from featcache_cli.wrapping import safe

if TYPE_CHECKING:
    from featcache.reports.style import DrawFigure

_F = TypeVar("_F", bound=Callable[..., Any])


class _Figures(click.Group):
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        refuse_unknown(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


@click.group(cls=_Figures)
def command() -> None:
    """Draw the images and features of a cache, and the results of a model: PNG, SVG or PDF, light or dark.

    An SVG follows the light or dark mode of the page that shows it; with --dark it is always dark.
    """


def _figure_options(function: _F) -> _F:
    """Add the options of every figure."""
    function = options.as_json(function)
    function = click.option("--dark", is_flag=True, help="Draw light lines on a dark background.")(function)
    return options.picture_option(function, required=True)


def _save(figure: DrawFigure, out: str, dark: bool, as_json: bool) -> None:
    from featcache.reports.style import save

    path = save(figure, out, dark)
    options.print_json({"picture": str(path)}) if as_json else click.echo(safe(str(path)))


@command.command(cls=Command)
@click.argument("cache", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option(
    "--images",
    type=click.IntRange(1, 50),
    default=4,
    show_default=True,
    help="How many images to show, from all classes in turn.",
)
@click.option("--seed", default=0, show_default=True, help="The seed that selects the images.")
@_figure_options
def views(cache: str, data: str, images: int, seed: int, out: str, dark: bool, as_json: bool) -> None:
    """Draw the augmented views of some training images of CACHE, which was made from DATA."""
    from featcache.reports import cache_figures

    _save(cache_figures.views_figure(cache, data, images, seed), out, dark, as_json)


@command.command(cls=Command)
@click.argument("model", type=options.PATH)
@click.argument("data", type=options.PATH)
@click.option(
    "--images", type=click.IntRange(1, 200), default=24, show_default=True, help="How many images or texts to show."
)
@options.text_column_option
@_figure_options
def predictions(
    model: str, data: str, images: int, text_column: str | None, out: str, dark: bool, as_json: bool
) -> None:
    """Draw val images or texts of DATA with the predictions of MODEL, the most confident mistakes first."""
    from featcache.reports import model_figures

    _save(model_figures.predictions_figure(model, data, images, text_column), out, dark, as_json)


@command.command(cls=Command)
@click.argument("model", type=options.PATH)
@click.argument("images", nargs=-1, required=True, type=options.PATH)
@click.option("--class", "label", metavar="NAME", help="Explain this class. [default: the most probable one of each]")
@click.option("--weights", type=options.PATH, help="The file of the backbone's weights, if it was moved.")
@options.factory_option
@options.device_option
@_figure_options
def why(model: str, images: tuple[str, ...], out: str, dark: bool, as_json: bool, **settings: Any) -> None:
    """Draw IMAGES with the places by which MODEL, with a linear head, decides: for a class, or against it.

    IMAGES are files, folders and globs, as in predict; at most 24. The logit of a class is exactly the sum of what the
    places contribute, and a constant.
    """
    from featcache.core.model_card import ModelCard
    from featcache.errors import PictureError
    from featcache.models.inputs.names import list_inputs
    from featcache.models.inputs.registry import inputs_of
    from featcache.reports.why_figure import why_figure

    missing: dict[str, str] = {}
    listed = list_inputs(images, inputs_of(ModelCard.read(Path(model)).spec), missing)
    if missing:
        name, reason = next(iter(missing.items()))
        raise PictureError(f"{name} names no image: {reason}")
    _save(why_figure(model, listed, **settings), out, dark, as_json)


@command.command(cls=Command)
@click.argument("model", type=options.PATH)
@_figure_options
def confusion(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw the confusion matrix of MODEL on val."""
    from featcache.reports import model_figures

    _save(model_figures.confusion_figure(model), out, dark, as_json)


@command.command(cls=Command)
@click.argument("model", type=options.PATH)
@_figure_options
def reliability(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw how well the probabilities of MODEL are calibrated on val."""
    from featcache.reports import model_figures

    _save(model_figures.reliability_figure(model), out, dark, as_json)


@command.command(cls=Command)
@click.argument("model", type=options.PATH)
@_figure_options
def history(model: str, out: str, dark: bool, as_json: bool) -> None:
    """Draw loss and accuracy of MODEL by epoch, on train and val."""
    from featcache.reports import model_figures

    _save(model_figures.history_figure(model), out, dark, as_json)


@command.command(cls=Command)
@click.argument("report", type=options.PATH)
@click.option(
    "--over", type=click.Choice(["views", "labels"]), help="Which curve, if REPORT has both. [default: the first]"
)
@_figure_options
def curve(report: str, over: str | None, out: str, dark: bool, as_json: bool) -> None:
    """Draw accuracy and seconds against views or labels.

    REPORT is the output of `curve --json`, or the report.json of a benchmark.
    """
    from featcache.reports import model_figures

    _save(model_figures.curve_figure(report, over), out, dark, as_json)


@command.command("map", cls=Command)
@click.argument("cache", type=options.PATH)
@click.argument("data", required=False, type=options.PATH)
@click.option("--method", type=click.Choice(["pca", "tsne", "umap"]), default="pca", show_default=True,
              help="The projection; umap needs an extra.")  # fmt: skip
@click.option("--split", type=click.Choice(["train", "val", "test", "unlabeled"]), default="val", show_default=True,
              help="Which samples to show.")  # fmt: skip
@click.option("--images", type=click.IntRange(3), default=2000, show_default=True, help="Highest number of points.")
@click.option(
    "--thumbnails",
    type=click.IntRange(0, 50),
    default=12,
    show_default=True,
    help="Highest number of small images.",
)
@options.shared("layer", LayerOptions, help="Which features of the cache to use.")
@click.option("--seed", default=0, show_default=True, help="The seed of the samples and of the projection.")
@_figure_options
def map_(cache: str, data: str | None, out: str, dark: bool, as_json: bool, **settings: Any) -> None:
    """Draw the features of CACHE in two dimensions, coloured by class.

    With DATA, the map shows images and texts whose neighbours are of another class.
    """
    from featcache.reports import cache_figures

    _save(cache_figures.map_figure(cache, data, **settings), out, dark, as_json)
