"""`featcache serve` as a process of its own, and calls of its API. On the pytest path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from commands import ROOT

# Writes down what the server looks up or connects to, but for the machine itself; the last line shows that it does.
GUARDED = """
import os, socket, sys, warnings
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments
        if isinstance(place, tuple) and place[0] not in ("127.0.0.1", "::1", "localhost", None):
            with open(os.environ["WATCHED"], "a") as file:
                file.write(f"{place[0]}\\n")
sys.addaudithook(watch)
try:
    socket.getaddrinfo("watched.invalid", 80)
except OSError:
    pass
from featcache.models.serving import app
app._CLEANUP_S, app._MAX_AGE_S = map(int, os.environ["SWEEP"].split())
from featcache_cli.main import main
main()
"""


class Served:
    """A server, what it said first, and what it says at its end."""

    def __init__(self, folder: Path, *arguments: object, sweep: str = "60 600") -> None:
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self._watched, self._errors = folder / "watched.txt", folder / "errors.txt"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
        told = {"PYTHONPATH": paths, "WATCHED": str(self._watched), "SWEEP": sweep, "TMPDIR": str(self.temporary)}
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", GUARDED, "serve", *map(str, arguments), "--json"],
                env={**os.environ, **told},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout
        text = ""
        while not text.endswith("\n}\n"):
            line = self.process.stdout.readline()
            assert line, self.errors
            text += line
        self.page: dict[str, str] = json.loads(text)
        self.url = self.page["url"]

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def watched(self) -> list[str]:
        return self._watched.read_text().split()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def upload(self, content: bytes, name: str = "picture") -> str:
        """The path that the server gave a file."""
        form = f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        answer = post(self.page["upload"], form + content + b"\r\n--X--\r\n", "multipart/form-data; boundary=X")
        (path,) = json.loads(answer)
        return str(path)

    def call(self, picture: Any) -> tuple[str, Any]:
        """What the API answers for a picture: "complete" or "error", and the data."""
        answer = post(self.page["predict"], json.dumps({"data": [picture]}).encode(), "application/json")
        with urllib.request.urlopen(f"{self.page['predict']}/{json.loads(answer)['event_id']}", timeout=60) as stream:
            lines = dict(line.split(": ", 1) for line in stream.read().decode().splitlines() if line)
        return lines["event"], json.loads(lines["data"])

    def predict(self, content: bytes) -> tuple[str, Any]:
        return self.call(file_data(self.upload(content)))


def file_data(path: str | None, **more: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def post(url: str, body: bytes, kind: str) -> str:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())
