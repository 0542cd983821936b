"""`featcache`: the group of commands. A command's module is imported when it is called or asked for help."""

from __future__ import annotations

import errno
import importlib
import sys
import warnings
from typing import Any, TextIO

import click

from featcache.allocator import keep_freed_memory
from featcache.errors import FeatcacheError, MissingFontWarning
from featcache_cli import results
from featcache_cli.options import refuse_unknown
from featcache_cli.results import StoppedError

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
    "evaluate",
    "show",
    "export",
    "serve",
    "benchmark",
)


_python_shows = warnings.showwarning


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"featcache_cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["featcache.json"] = results.wants_json(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        refuse_unknown(ctx, args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        results.allow_any_name()
        try:
            with results.answering(ctx, ctx.meta["featcache.json"]):
                return super().invoke(ctx)
        except StoppedError as error:
            click.echo(f"Stopped. {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped at once.", err=True)
            sys.exit(130)
        except (FeatcacheError, OSError) as error:  # an OSError: no permission, a file where a folder should be, ...
            if getattr(error, "errno", None) == errno.EPIPE:
                raise
            raise click.ClickException(results.message_of(error)) from error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say our own warnings to people, and others as Python does."""
    if issubclass(category, MissingFontWarning):
        click.echo(f"Note: {message}", err=True)
    else:
        _python_shows(message, category, filename, lineno, file, line)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="featcache")
def main() -> None:
    """Run the frozen network once, keep the features, train image classifiers in seconds."""
    keep_freed_memory()
    warnings.showwarning = _show_warning
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata; what cannot be read is listed with its reason


if __name__ == "__main__":
    main()
