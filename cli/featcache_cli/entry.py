"""`run`: the program `featcache`. What goes before the commands: Ctrl-C while Python imports, and closed streams."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def run() -> None:
    """Run the command that the program was called with."""
    patient = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored, it stays so
    if patient:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of an import
    _open_streams()
    from featcache_cli.main import main

    if patient:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main(prog_name="featcache")
    finally:
        if patient:  # a second Ctrl-C while threads end
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_streams() -> None:
    """Put the null device where a stream was closed: else the next file that is opened would take its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - it is open as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        with suppress(OSError):
            sys.stderr.write("Error: standard output is closed. Send it to a file, or to /dev/null.\n")
        sys.exit(1)


if __name__ == "__main__":
    run()
