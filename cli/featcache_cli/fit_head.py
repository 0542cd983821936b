"""featcache fit-head"""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

import click

from featcache.core.head_options import HeadOptions
from featcache_cli import options, outputs
from featcache_cli.requirements import Requirement, check_requirements, require_option

_THEN = {"fit folds": "fit on all samples", **dict.fromkeys(("fit heads", "fit strengths", "fit epochs"), "evaluate")}


def _parameter(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """Parse name=value pairs; a value that is not a Python literal is a string."""
    parameters: dict[str, Any] = {}
    for pair in values:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not name=value")
        try:
            parameters[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parameters[name] = text
    return parameters


def _thresholds(
    _ctx: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> str | float | dict[str, float] | None:
    """Parse f1, a number, or one or more LABEL=NUMBER."""
    if not texts or texts == ("f1",):
        return "f1" if texts else None
    try:
        if len(texts) == 1 and "=" not in texts[0]:
            return float(texts[0])
        pairs = [text.rpartition("=") for text in texts]
        repeated = [name for name, count in Counter(name for name, _, _ in pairs).items() if name and count > 1]
        if repeated:
            raise click.BadParameter(f"{repeated[0]} has two thresholds; give one")
        if all(name for name, _, _ in pairs):
            return {name: float(number) for name, _, number in pairs}
    except ValueError:
        pass
    raise click.BadParameter(f"{' '.join(texts)} is neither f1 nor a number nor LABEL=NUMBER, given once or more")


class _HeadOption(click.Option):
    """The option --head, whose help lists the heads that are installed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from featcache.heads.registry import head_names

        self.help = (
            f"The head to fit: {', '.join(head_names())}; or the dotted path of a classifier, such as "
            "sklearn.naive_bayes.GaussianNB. auto keeps the best of centroid, lda, ridge and linear. imagenet:ant,bee "
            "takes the rows of the network's own classifier."
        )
        return super().get_help_record(ctx)


@options.command()
@click.argument("cache", nargs=-1, required=True, type=options.PATH)
@click.option(
    "-o",
    "--out",
    type=options.PATH,
    callback=outputs.new_model,
    help="Folder to save the head in. [default: not saved]",
)
@outputs.overwrite_option
@click.option(
    "--head",
    cls=_HeadOption,
    default="auto",
    show_default=True,
)
@click.option(
    "-p",
    "parameters",
    multiple=True,
    callback=_parameter,
    metavar="NAME=VALUE",
    help="A parameter of the head, such as C=0.1; repeat the option for more.",
)
@options.shared("use_views", HeadOptions)
@options.shared("cv", HeadOptions, type=click.IntRange(2))
@options.shared("budget_s", HeadOptions, flag="--budget", metavar="SECONDS|30s|2m", callback=options.duration)
@options.shared("scaling", HeadOptions)
@options.shared("calibrate", HeadOptions)
@options.shared(
    "thresholds", HeadOptions, multiple=True, type=str, callback=_thresholds, metavar="f1|NUMBER|LABEL=NUMBER"
)
@options.shared("unlabeled", HeadOptions)
@options.shared("tta", HeadOptions, type=click.IntRange(0))
@options.shared("device", HeadOptions)
@click.option(
    "--report",
    type=options.PATH,
    callback=outputs.new_file,
    help="Write a report with figures to this HTML file; needs -o.",
)
@click.option("--images", "data", type=options.PATH, help="The images or texts of CACHE, for the figures of --report.")
@options.shared("layer", HeadOptions)
@options.cluster_options
@options.shared("seed", HeadOptions)
@require_option
@options.as_json
def command(
    cache: tuple[str, ...], report: str | None, data: str | None, require: list[Requirement], as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Train a classifier on the features of CACHE in seconds, evaluate it on val, and save it.

    Give several caches of the same samples, from two networks or at two resolutions: cross-validation then tells what
    each is worth, and the head uses those that bring a gain.
    """
    import featcache

    if report and not settings["out"]:
        raise click.UsageError("--report needs -o: it shows the saved head")
    if data and not report:
        raise click.UsageError("--images needs --report")
    cluster = options.take_cluster(settings)
    on_epoch, on_note = (None, None) if as_json else (options.echo, options.note)
    options.step(f"fit {settings['head']}")
    with options.progress_bar(resumes=False, then=_THEN) as progress:
        fit = featcache.fit_head(
            cache, cluster=cluster, progress=progress, on_epoch=on_epoch, on_note=on_note, **settings
        )
    options.show(fit, as_json, cache=cache[0] if len(cache) == 1 else cache)
    if report:
        from featcache.reports.pages.head import write_head_page

        write_head_page(report, fit, cache, settings, data)
    check_requirements(require, fit)
