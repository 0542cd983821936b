"""`featcache`: the group of commands. The module of a command is imported when it runs or its help is shown."""

from __future__ import annotations

import errno
import importlib
import re
import sys
import traceback
import warnings
from typing import IO, Any, TextIO

import click

from featcache._utils.environment import keep_freed_memory
from featcache.errors import FeatcacheError, FeatcacheWarning
from featcache_cli import progress, results
from featcache_cli.base import refuse_unknown
from featcache_cli.config import config_option
from featcache_cli.memory import explain_memory_error
from featcache_cli.stopping import LateStop, StoppedError
from featcache_cli.version import version_option
from featcache_cli.wrapping import safe, wrap

GROUPS = {
    "Begin": ("demo", "try", "plan"),
    "Caches of features": (
        "extract",
        "info",
        "verify",
        "doctor",
        "similar",
        "suggest",
        "update",
        "diff",
        "pull",
        "push",
    ),
    "Heads and networks": ("fit-head", "compare-heads", "curve", "finetune", "benchmark"),
    "Using a model": ("predict", "evaluate", "show", "export", "serve"),
}
COMMANDS = tuple(name for names in GROUPS.values() for name in names)
REMOVED = {
    "forecast": "it was not better than always answering that fine-tuning brings no gain. `featcache benchmark DATA "
    "-o REPORT --budget 30m` measures the gain, `featcache curve CACHE` estimates the gain from more labels",
}


_STATUS = """Exit status: 0 done; 1 an error, a difference that diff or verify found, no picture that predict or
similar could read, or one that predict could not move; 2 a wrong option; 3 and 4 warnings and errors that doctor found;
5 a figure that misses --require; 130 and 143 stopped by a signal."""


class Failure(click.ClickException):
    """An error whose message is wrapped to the width of the terminal."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it on stderr."""
        click.echo(wrap(f"Error: {self.format_message()}", err=True), file=file, err=True)


_default_showwarning = warnings.showwarning


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module_name = "try_" if name == "try" else name.replace("-", "_")  # try is a keyword of Python
        module = importlib.import_module(f"featcache_cli.{module_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl(
                    [(name, first_sentence(command.help or "")) for name, command in commands if command]
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["featcache.json"] = results.wants_json(args)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in REMOVED:
            raise click.UsageError(f"{args[0]} was removed: {REMOVED[args[0]]}.", ctx)
        refuse_unknown(ctx, args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        results.allow_any_name()
        try:
            with results.json_output(ctx, ctx.meta["featcache.json"]):
                return super().invoke(ctx)
        except (StoppedError, LateStop) as error:
            click.echo(safe(f"Stopped. {error}"), err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped at once.", err=True)
            sys.exit(130)
        except (FeatcacheError, OSError) as error:  # an OSError: no permission, a file where a folder should be, ...
            if getattr(error, "errno", None) == errno.EPIPE:
                raise
            if progress.verbosity() == progress.VERBOSE:
                click.echo(safe(traceback.format_exc()), err=True)
            raise Failure(results.message_of(error)) from error
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise click.UsageError(wrap(error.format_message(), err=True), error.ctx) from error
        except Exception as error:
            short = explain_memory_error(error)
            if not short:
                raise
            raise Failure(short) from error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print warnings of featcache as notes, and other warnings as Python does."""
    if issubclass(category, FeatcacheWarning):
        progress.note(f"Note: {message}")
    else:
        _default_showwarning(safe(str(message)), category, filename, lineno, file, line)


def first_sentence(text: str) -> str:
    """Return the first sentence of a help text, which ends at a full stop or a colon."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    end = re.search(r"[.:?](?= [A-Z]|$)", paragraph)
    return f"{paragraph[: end.start()]}{'?' if end.group() == '?' else '.'}" if end else paragraph


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_STATUS)
@version_option
@config_option(COMMANDS)
def main() -> None:
    """Run the frozen network once, keep the features, train classifiers of images and texts in seconds."""
    keep_freed_memory()
    warnings.showwarning = _show_warning
    warnings.filterwarnings(
        "ignore", module=r"PIL\."
    )  # about unusual metadata; unreadable images are listed with the reason


if __name__ == "__main__":
    main()
