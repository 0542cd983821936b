"""`--config FILE`: a TOML file with the options and arguments of commands, a table for each command."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

_EXAMPLE = 'for example\n\n[extract]\ndata = "photos"\nout = "photos.h5"\nviews = 4'


def config_option(commands: Sequence[str]) -> Callable[[_F], _F]:
    """The option of the group of all commands. commands : their names."""

    def read(ctx: click.Context, _option: click.Parameter, path: str | None) -> None:
        if path is not None:
            ctx.default_map = read_config(path, commands)
            if isinstance(ctx.command, click.Group):
                for name, table in ctx.default_map.items():
                    _check_table(ctx, ctx.command, name, table, name)

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=read,
        help="Take options and arguments from this TOML file, which has a table for each command, such as [extract]. "
        "Those on the command line go first. Paths are relative to the current folder.",
    )


def read_config(path: str | os.PathLike[str], commands: Sequence[str]) -> dict[str, Any]:
    """The tables of a file by command. Raises UsageError for a file that is no TOML, and for other tables."""
    import tomllib

    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not a TOML file: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name} is not in a table of a command, {_EXAMPLE}")
        if name not in commands:
            raise click.UsageError(f"{path}: there is no command {name!r}. {close_hint(name, commands)}")
    return tables


def _check_table(ctx: click.Context, group: click.Group, name: str, table: Mapping[str, Any], title: str) -> None:
    """Raise UsageError for wrong names in a table, and in the tables in it of a command such as show.

    title : the name of the table, such as "show.map".
    """
    command = group.get_command(ctx, name)
    if command is None:
        names = group.list_commands(ctx)
        raise click.UsageError(f"--config: there is no command {title!r}. {close_hint(name, names)}")
    if not isinstance(command, click.Group):
        parameters_of(command, table, title)
        return
    for key, value in table.items():
        if not isinstance(value, Mapping):
            tables = ", ".join(f"[{title}.{other}]" for other in command.list_commands(ctx))
            raise click.UsageError(f"--config: {key} is in [{title}], which holds tables alone: {tables}")
        _check_table(ctx, command, key, value, f"{title}.{key}")


def parameters_of(command: click.Command, table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values of a table by the name of the parameter, as on a command line.

    Parameters
    ----------
    command : Command
        The command of the table.
    table : mapping
        Keys are options without dashes in front, such as "val-fraction", and arguments, such as "data". Lists are for
        options that can be repeated, and for arguments of several values.
    name : str
        Of the command, for messages.

    Raises
    ------
    UsageError
        There is no such option.
    """
    spellings = {spelling: param for param in command.params for spelling in _spellings(param)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        param = spellings.get(key.replace("_", "-"))
        if param is None:
            raise click.UsageError(f"--config: {name} has no option {key!r}. {close_hint(key, spellings)}")
        several = getattr(param, "multiple", False) or param.nargs != 1
        if isinstance(value, list) and not several:
            raise click.UsageError(f"--config: {key} of {name} takes one value, not a list")
        listed = [_text(one) for one in (value if isinstance(value, list) else [value])]
        values[param.name or ""] = listed if several else listed[0]
    return values


def _text(value: Any) -> Any:
    """A value as it would stand on a command line; true and false stay, for flags."""
    return value if isinstance(value, bool) else str(value)


def _spellings(param: click.Parameter) -> list[str]:
    if isinstance(param, click.Argument):
        return [(param.name or "").replace("_", "-")]
    return [name.lstrip("-") for name in (*param.opts, *param.secondary_opts)]


def close_hint(name: str, names: Collection[str]) -> str:
    """A sentence with the names that are similar to a missing one, or with all names."""
    alike = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=2, cutoff=0.7)
    return f"Did you mean {' or '.join(alike)}?" if alike else f"There are {', '.join(names)}."
