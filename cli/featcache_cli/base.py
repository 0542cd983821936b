"""`Command`: the common parts of all commands: -q and -v, a progress display, and a help text in groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import click

from featcache_cli import outputs, progress
from featcache_cli.config import close_hint, parameters_of

_GROUPS: dict[str, tuple[str, ...]] = {
    "Data": ("label_column", "text_column", "skip_missing", "val_fraction", "split_seed", "allow_leak", "max_pixels",
             "value_range", "decode_side", "strict"),
    "Network": ("backbone", "weights", "weights_key", "layers", "image_size", "max_length", "prefix", "augment",
                "precision", "train_precision", "engine", "dtype"),
    "Machine": ("workers", "device", "deterministic", "batch_size", "cluster", "gpus_per_worker", "cpus_per_worker"),
    "Printing": ("as_json", "quiet", "verbose"),
}  # fmt: skip
_UNGROUPED = 8
"""Highest number of options that are printed without groups."""

_BOUNDS = re.compile(r"(?:([\d.e+-]+)(<=?))?x(?:(<=?)([\d.e+-]+)|(>=?)([\d.e+-]+))")
_NO_BOUND = 1e9


def _set_verbosity(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(_ctx: click.Context, _option: click.Parameter, is_set: bool) -> None:
        if is_set:
            progress.set_verbosity(level)

    return callback


def verbosity_options() -> list[click.Parameter]:
    """-q and -v, which every command has."""
    quiet, verbose = _set_verbosity(progress.QUIET), _set_verbosity(progress.VERBOSE)
    return [
        click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=quiet,
                     help="Print the result alone, without progress and notes."),
        click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=verbose,
                     help="Also print the seconds of each step, and the traceback of an error."),
    ]  # fmt: skip


class Command(click.Command):
    """A command with -q and -v, a display of its progress, and a help text in groups.

    Parameters
    ----------
    groups : mapping or None
        Heading to names of parameters, printed before the groups that all commands share, or instead of the group
        of this heading. Other parameters come first.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.params += verbosity_options()
        self.groups = groups or {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; what it lacks comes from the file of --config."""
        if ctx.default_map:
            ctx.default_map = parameters_of(self, ctx.default_map, ctx.info_name or "")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with a display of its progress."""
        outputs.refuse_inputs(ctx)
        with progress.showing(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        records: dict[str, tuple[str, str]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                records[option.name or ""] = (record[0].replace(" RANGE", ""), bounds_in_words(record[1]))
        shared = {heading: names for heading, names in _GROUPS.items() if heading not in self.groups}
        groups = {**self.groups, **shared} if len(records) > _UNGROUPED or self.groups else {}
        help_ = records.pop("help", None)
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for heading, names in groups.items():
            sections[heading] = [records.pop(name) for name in names if name in records]
        sections["Options"] = list(records.values())
        last = [heading for heading in sections if sections[heading]][-1:] or ["Options"]
        sections[last[0]] += [help_] if help_ else []
        for heading, rows in sections.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def bounds_in_words(text: str) -> str:
    """`[1<=x<=200]` as `[1 to 200]`, `[x>=2]` as `[at least 2]`; very large bounds are left out."""

    def words(match: re.Match[str]) -> str:
        low, low_mark, high_mark, high, mark, alone = match.groups()
        if high is not None and float(high) >= _NO_BOUND:
            high = None
            mark, alone = (">" if low_mark == "<" else ">="), low
        if high is None and alone is not None:
            if mark == ">=" and float(alone) <= 1:  # a count, or a rate that is not 0
                return ""
            return f"above {alone}" if mark == ">" else f"at least {alone}"
        if low is None:
            return f"below {high}" if high_mark == "<" else f"at most {high}"
        return f"between {low} and {high}" if low_mark == "<" else f"{low} to {high}"

    return re.sub(r" *\[\]", "", re.sub(r"; (?=\])", "", _BOUNDS.sub(words, text)))


def command(*args: Any, **keywords: Any) -> Callable[[Callable[..., Any]], Command]:
    """A decorator: `click.command` with `Command`."""
    return click.command(*args, cls=Command, **keywords)


def refuse_unknown(ctx: click.Context, name: str, commands: Collection[str]) -> None:
    """Raise UsageError for an unknown command, with the names that are similar."""
    if name in commands or name.startswith("-"):
        return
    raise click.UsageError(f"There is no command {name!r}. {close_hint(name, commands)}", ctx)
