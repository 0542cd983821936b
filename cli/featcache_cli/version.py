"""The option --version: the versions and the device that a report of a bug needs."""

from __future__ import annotations

import platform

import click

from featcache_cli.wrapping import safe


def describe_versions() -> str:
    """Return the version of featcache, and those of Python, PyTorch, the device and the system in a second line."""
    from importlib.metadata import version

    from featcache.backbones.devices import name_devices, resolve_device

    device = name_devices([resolve_device("auto")])
    return (
        f"featcache, version {version('featcache')}\n"
        f"Python {platform.python_version()}, PyTorch {version('torch')}, device {device}, {platform.platform()}"
    )


def _print(ctx: click.Context, _option: click.Parameter, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
        click.echo(safe(describe_versions()))
        ctx.exit()


version_option = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print,
    help="Show the versions of featcache, Python and PyTorch and the device, and exit.",
)  # fmt: skip
"""`--version` of the whole program."""
