"""Output of a command: text, or one JSON object with `--json`; names in any script print on any terminal.

With `--json`, stdout gets exactly one object, printed when the command ends: `ok` (true if the exit status is 0),
`seconds` with `wall` in it, the fields of the result, and after a failure `error` with `type` and `message`.
"""

from __future__ import annotations

import codecs
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from featcache.errors import FeatcacheError, shorten
from featcache_cli import progress
from featcache_cli.stopping import LateStop, StoppedError
from featcache_cli.wrapping import wrap

_RESULT = "featcache.result"  # keys of a click context's `meta`, which a command shares with its group
_STARTED = "featcache.started"
_PRINTED = "featcache.printed"

_ERRORS = "featcache.names"


def show(result: Any, as_json: bool, **more: Any) -> None:
    """Print a result: `to_dict()` as JSON, or `str()`.

    more : further fields of the JSON object, such as the cache that a head was fitted on.
    """
    if as_json:
        print_json({**more, **result.to_dict()})
    else:
        print_text(result)


def print_text(text: object) -> None:
    """Print a text, wrapped to the width of the terminal."""
    progress.clear()
    click.echo(wrap(str(text)))


def print_json(value: Mapping[str, Any]) -> None:
    """Make this the JSON object that is printed when the command ends, with `ok` and `seconds`."""
    context = click.get_current_context()
    context.meta[_RESULT] = {**context.meta.get(_RESULT, {}), **value}


def print_json_now() -> None:
    """Print the JSON object now, for a command that keeps running, such as a server."""
    _print(click.get_current_context(), 0, None)


def printed_json() -> None:
    """Record that the command has printed its JSON itself."""
    click.get_current_context().meta[_PRINTED] = True


def outcome(status: int = 0, error: BaseException | None = None) -> dict[str, Any]:
    """The fields that every JSON object has: `ok`, `seconds`, and after a failure `error`."""
    fields: dict[str, Any] = {"ok": status == 0, "seconds": {"wall": _elapsed(click.get_current_context())}}
    if error is not None:
        fields["error"] = {"type": type(error).__name__, "message": message_of(error), "status": status}
    return fields


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line requests JSON; works before its options are parsed, which may fail."""
    options = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    formats = [after for before, after in itertools.pairwise(options) if before == "--format"]
    formats += [option.removeprefix("--format=") for option in options if option.startswith("--format=")]
    return "--json" in options or "json" in formats or "jsonl" in formats


@contextmanager
def json_output(context: click.Context, as_json: bool) -> Iterator[None]:
    """Print the JSON object of the command in this context, whether it succeeds or fails."""
    context.meta.update({_STARTED: time.perf_counter(), _RESULT: {}, _PRINTED: False})
    try:
        yield
    except BaseException as error:
        status = _status(error)
        has_message = not isinstance(error, (SystemExit, click.exceptions.Exit))
        if as_json and (status or context.meta[_RESULT]):
            _print(context, status, error if has_message else None)
        raise
    if context.meta[_RESULT]:
        _print(context, 0, None)


def _print(context: click.Context, status: int, error: BaseException | None) -> None:
    from featcache._utils.formatting import json_safe  # it imports numpy, which help does not need

    if context.meta[_PRINTED]:
        return
    result = dict(context.meta[_RESULT])
    fields = outcome(status, error)
    seconds = result.pop("seconds", {})
    fields["seconds"] |= seconds if isinstance(seconds, Mapping) else {"wall": seconds}
    context.meta[_PRINTED] = True
    click.echo(json.dumps(json_safe({"ok": fields.pop("ok"), **result, **fields}), indent=1))


def _elapsed(context: click.Context) -> float:
    return time.perf_counter() - context.meta[_STARTED]


def _status(error: BaseException) -> int:
    """The exit status for an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, (StoppedError, LateStop, click.ClickException, click.exceptions.Exit)):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def message_of(error: BaseException) -> str:
    """The printed message of an error."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and not isinstance(error, FeatcacheError):
        return shorten(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
    return str(error) or type(error).__name__


def allow_any_name() -> None:
    """Make stdout and stderr accept any file name.

    Bytes that are not text are written unchanged. Characters that the encoding of the terminal lacks are written as
    Python escapes: \\U0001f41d for a bee under cp1252.
    """
    codecs.register_error(_ERRORS, _encode_name)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ERRORS)


def _encode_name(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":  # a byte that Python could not decode, see os.fsdecode
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return letter.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
