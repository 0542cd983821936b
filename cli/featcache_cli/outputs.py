"""Output files and folders: where they may be, and what they may replace. Inputs are never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import click

from featcache.errors import OutputExistsError

_OVERWRITE = "featcache.overwrite"  # a key of a click context's `meta`


def _remember(ctx: click.Context, _option: click.Parameter, overwrite: bool) -> None:
    ctx.meta[_OVERWRITE] = overwrite


overwrite_option = click.option(
    "--overwrite", is_flag=True, is_eager=True, expose_value=False, callback=_remember,
    help="Replace existing outputs.",
)  # fmt: skip


def overwrites(ctx: click.Context) -> bool:
    """Whether `--overwrite` is set; callbacks of other options may call this."""
    return bool(ctx.meta.get(_OVERWRITE))


def refuse_existing(path: Path, overwrite: bool, what: str = "exists") -> None:
    """Raise OutputExistsError for an existing output without `--overwrite`."""
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path} {what}. Give another name, or replace it with --overwrite.")


def new_file(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for the name of an output file; an existing file is rejected, see `overwrite_option`."""
    name = file_in_existing_folder(ctx, option, name)
    if name:
        refuse_existing(Path(name), overwrites(ctx))
    return name


def new_model(ctx: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """A callback for the output folder of a model; a folder with a model is rejected."""
    if name and any((Path(name) / file).exists() for file in ("model.json", "run.json")):
        refuse_existing(Path(name), overwrites(ctx), "holds a model already")
    return name


def new_report(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for the output folder of a report; the folder of a model is rejected."""
    if name and (Path(name) / "model.json").exists():
        raise OutputExistsError(f"{name} holds a model, and its metrics would be replaced. Give another folder.")
    return new_model(ctx, option, name)


def file_in_existing_folder(_ctx: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """A callback for the name of an output file, which is checked before the work starts."""
    if name and not Path(name).parent.is_dir():
        raise click.BadParameter(f"{Path(name).parent} is not a folder")
    if name and Path(name).is_dir():
        raise click.BadParameter(f"{name} is a folder; give a file")
    if name and not os.access(Path(name).parent, os.W_OK):
        raise click.BadParameter(f"{Path(name).parent} cannot be written")
    return name


def _list_file(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback for the name of a list; only an earlier list is replaced, because a command may be run again."""
    from featcache.data.input_notes import is_list

    name = file_in_existing_folder(ctx, option, name)
    if name and os.path.lexists(name) and not (os.path.isfile(name) and is_list(name)):
        raise OutputExistsError(f"{name} exists and is not a list that featcache wrote. Give another name.")
    return name


list_option = click.option(
    "--list",
    "listed",
    type=click.Path(),
    callback=_list_file,
    help="Write all listed samples to this CSV file.",
)


def refuse_inputs(ctx: click.Context) -> None:
    """Raise OutputExistsError if an output of the command is also an input.

    Called when all parameters are parsed. Inputs are the arguments, and for the folder of a model also its files.
    """
    arguments = {param.name for param in ctx.command.params if isinstance(param, click.Argument)} - OUTPUTS
    inputs = [name for key, value in ctx.params.items() if key in arguments for name in _names(value)]
    for key in OUTPUTS & ctx.params.keys():
        for out in _names(ctx.params[key]):
            for name in inputs:
                if _is_read(Path(out), Path(name)):
                    raise OutputExistsError(f"{out} would replace a file that is read from {name}. Give another name.")


OUTPUTS = {"out", "listed", "page", "figure"}
"""Parameters that name an output file."""


def _names(value: object) -> list[str]:
    """The file names in the value of a parameter."""
    values = value if isinstance(value, tuple) else (value,)
    return [name for name in values if isinstance(name, str)]


def _is_read(out: Path, read: Path) -> bool:
    """Whether an existing output is the input: that file, a file of that model, or an image in that folder."""
    from featcache.core.model_folder import members
    from featcache.data.image_names import is_image_name

    if not out.is_file() or not read.exists():
        return False
    if not read.is_dir():
        return out.samefile(read)
    if names := members(read):
        return any((read / name).exists() and out.samefile(read / name) for name in names)
    return is_image_name(out) and out.resolve().is_relative_to(read.resolve())
