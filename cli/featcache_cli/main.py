"""`featcache`: the group of commands. A command's module is imported when it is called or asked for help."""

from __future__ import annotations

import errno
import importlib
import sys
import warnings
from typing import Any

import click

from featcache.allocator import keep_freed_memory
from featcache.errors import FeatcacheError
from featcache_cli.options import StoppedError

COMMANDS = (
    "demo",
    "extract",
    "info",
    "verify",
    "doctor",
    "update",
    "diff",
    "pull",
    "push",
    "fit-head",
    "compare-heads",
    "curve",
    "forecast",
    "plan",
    "finetune",
    "predict",
    "show",
    "export",
    "serve",
    "benchmark",
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"featcache_cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoppedError as error:
            click.echo(f"Stopped. {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped at once.", err=True)
            sys.exit(130)
        except FeatcacheError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:  # no permission, a file where a folder should be, ...
            if error.errno == errno.EPIPE:
                raise
            raise click.ClickException(f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="featcache")
def main() -> None:
    """Run the frozen network once, keep the features, train image classifiers in seconds."""
    keep_freed_memory()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata; what cannot be read is listed with its reason


if __name__ == "__main__":
    main()
