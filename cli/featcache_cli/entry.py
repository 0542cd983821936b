"""`run`: the program `featcache`. It handles Ctrl-C during imports, and closed streams."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def run() -> None:
    """Run the command that the program was called with."""
    patient = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # an ignored signal stays ignored
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
    """Replace closed streams by the null device: else the next opened file would get their descriptor."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free descriptor: this one
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
