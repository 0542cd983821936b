"""Files and folders that a command writes: where they may lie and what they may replace; never what it reads."""

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
    help="Replace the outputs that are named and exist.",
)  # fmt: skip


def overwrites(ctx: click.Context) -> bool:
    """Whether `--overwrite` was given; known to callbacks of other options, too."""
    return bool(ctx.meta.get(_OVERWRITE))


def refuse_existing(path: Path, overwrite: bool, what: str = "exists") -> None:
    """Raise OutputExistsError for an output that is there, unless it is to be replaced."""
    if not overwrite and os.path.lexists(path):
        raise OutputExistsError(f"{path} {what}. Give another name, or replace it with --overwrite.")


def new_file(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback: the name of a file to write, refused before the work where it exists, see `overwrite_option`."""
    name = file_in_existing_folder(ctx, option, name)
    if name:
        refuse_existing(Path(name), overwrites(ctx))
    return name


def new_model(ctx: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """A callback: the folder of a model to write, refused before the work where one is in it."""
    if name and any((Path(name) / file).exists() for file in ("model.json", "run.json")):
        refuse_existing(Path(name), overwrites(ctx), "holds a model already")
    return name


def new_report(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback: the folder of a report to write; never that of a model, whose own metrics would be replaced."""
    if name and (Path(name) / "model.json").exists():
        raise OutputExistsError(f"{name} holds a model, whose own metrics would be replaced. Give another folder.")
    return new_model(ctx, option, name)


def file_in_existing_folder(_ctx: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    """A callback: the name of a file to write, refused before the work, not after it."""
    if name and not Path(name).parent.is_dir():
        raise click.BadParameter(f"{Path(name).parent} is no folder")
    if name and Path(name).is_dir():
        raise click.BadParameter(f"{name} is a folder; give a file")
    if name and not os.access(Path(name).parent, os.W_OK):
        raise click.BadParameter(f"{Path(name).parent} cannot be written")
    return name


def _list_file(ctx: click.Context, option: click.Parameter, name: str | None) -> str | None:
    """A callback: only an earlier list is replaced, as the same command may be run again to go on."""
    from featcache.data.input_notes import is_list

    name = file_in_existing_folder(ctx, option, name)
    if name and os.path.lexists(name) and not (os.path.isfile(name) and is_list(name)):
        raise OutputExistsError(f"{name} exists and is no list of featcache. Give another name.")
    return name


list_option = click.option(
    "--list",
    "listed",
    type=click.Path(),
    callback=_list_file,
    help="Write all images that are named here into this CSV file.",
)


def refuse_inputs(ctx: click.Context) -> None:
    """Raise OutputExistsError where a file that is to be written is one that the command reads.

    Called when all parameters are known. An input is an argument; of a model's folder, each file that belongs to the
    model is one, too.
    """
    arguments = {param.name for param in ctx.command.params if isinstance(param, click.Argument)} - OUTPUTS
    inputs = [name for key, value in ctx.params.items() if key in arguments for name in _names(value)]
    for key in OUTPUTS & ctx.params.keys():
        for out in _names(ctx.params[key]):
            for name in inputs:
                if _is_read(Path(out), Path(name)):
                    raise OutputExistsError(f"{out} would replace what is read from {name}. Give another name.")


OUTPUTS = {"out", "listed", "page"}
"""Names of the parameters that name a file to write."""


def _names(value: object) -> list[str]:
    """What a parameter names: one file, several, or none."""
    values = value if isinstance(value, tuple) else (value,)
    return [name for name in values if isinstance(name, str)]


def _is_read(out: Path, read: Path) -> bool:
    """Whether an existing file is what is read: that file, one of that model, or an image in that folder."""
    from featcache.core.model_folder import members
    from featcache.data.image_names import is_image_name

    if not out.is_file() or not read.exists():
        return False
    if not read.is_dir():
        return out.samefile(read)
    if names := members(read):
        return any((read / name).exists() and out.samefile(read / name) for name in names)
    return is_image_name(out) and out.resolve().is_relative_to(read.resolve())
