"""Lines for the width of the terminal, help in groups and sentences, completion of files, -q, -v, progress."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import featcache
from commands import PATHS, done, featcache_cli, refused, toy_cache, write_folder
from featcache.cache.verify import Difference
from featcache_cli import progress
from featcache_cli.base import Command, bounds_in_words
from featcache_cli.main import COMMANDS, first_sentence, main
from featcache_cli.wrapping import columns, wrap


def every_command() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {one}", command.commands[one]) for one in command.commands)
        else:
            yield name, command


EVERY = dict(every_command())


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("short", 40, "short"),
        ("one two three four five six seven", 20, "one two three four\n  five six seven"),
        ("  one two three four five six", 20, "  one two three four\n    five six"),
        ("label     one two three four", 22, "label     one two\n          three four"),
        ("ok   images   400 train, 20 val, 10 test", 30, "ok   images   400 train, 20\n              val, 10 test"),
        ("say it: `a b c d e f g` now", 20, "say it:\n  `a b c d e f g`\n  now"),
        ("/a/very/long/path/that/nobody/may/break", 20, "/a/very/long/path/that/nobody/may/break"),
        ("| a | table | that | is | wide |", 20, "| a | table | that | is | wide |"),
        ("first line is long, yes\nsecond", 20, "first line is long,\n  yes\nsecond"),
        ("蟻 蟻蟻蟻蟻 蟻蟻蟻蟻", 12, "蟻 蟻蟻蟻蟻\n  蟻蟻蟻蟻"),
        ("", 20, ""),
    ],
)
def test_lines_are_broken_where_their_text_is_indented(text: str, width: int, expected: str) -> None:
    assert wrap(text, width) == expected


@pytest.mark.parametrize(("text", "count"), [("abc", 3), ("蟻", 2), ("e\u0301", 1), ("é", 1)])
def test_columns_of_letters(text: str, count: int) -> None:
    assert columns(text) == count


def in_a_narrow_terminal(*arguments: object, width: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t")
    return toy_cache(write_folder(folder / "data"), folder / "c.h5")


def test_results_fit_into_a_terminal_of_80_columns(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache.parent)
    for line in (["info", "c.h5"], ["doctor", "c.h5", "data"], ["curve", "c.h5"], ["fit-head", "c.h5"],
                 ["verify", "c.h5", "--images", "data"], ["update", "c.h5", "data"], ["info", "gone.h5"],
                 ["extract", "nowhere", "-o", "n.h5"], ["extract", "data"]):  # fmt: skip
        result = in_a_narrow_terminal(*line)
        lines = [one for one in result.output.splitlines() if columns(one) > 80]
        assert lines == [], line
        assert result.output


LONG = "gone/" + "a long name/" * 20 + "c.h5"


def test_lines_in_files_and_pipes_are_whole() -> None:
    result = CliRunner(env={"COLUMNS": ""}).invoke(main, ["info", LONG])
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {LONG}")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_each_stream_is_as_wide_as_its_own_terminal() -> None:
    """stderr is a terminal of 60 columns, stdout a pipe."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": PATHS}
    code = f"""
import click
from featcache_cli.progress import echo, note
with click.Context(click.Command("x")):
    echo({LONG!r})
    note({LONG!r})
"""
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=env, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        lines = terminal.read1().decode().splitlines()
    assert ran.stdout.decode() == f"{LONG}\n"
    assert len(lines) > 3
    assert max(map(len, lines)) <= 60
    assert " ".join(map(str.strip, lines)) == LONG


@pytest.mark.parametrize("name", EVERY)
def test_help_is_in_sentences_without_ugly_bounds(name: str) -> None:
    text = done(*name.split(), "--help")
    assert not re.search(r"\d<=?x|x[<>]|RANGE|e\+?\d\d", text), text
    assert max(map(len, text.splitlines())) <= 80
    command = EVERY[name]
    assert isinstance(command, Command)
    assert re.match(r"[A-Z].*[.:]$", (command.help or "").strip().split("\n\n")[0].replace("\n", " "))
    for option in command.params:
        if isinstance(option, click.Option) and not option.deprecated:
            help_ = re.sub(r"\s*\[default: [^\]]*\]", "", option.help or "")
            assert re.match(r"[A-Z].* .*\.$", help_), option.opts
            assert not help_.startswith(("Of ", "As of")), option.opts


def test_long_helps_are_in_groups() -> None:
    text = done("extract", "--help")
    headings = re.findall(r"^([A-Z][^:\n]*):$", text, re.MULTILINE)
    assert headings == ["Options", "Data", "Network", "Machine", "Printing"]
    order = [text.index(name) for name in ("--views", "--val-fraction", "--backbone", "--workers", "--json")]
    assert order == sorted(order)
    images, network = (text.split(f"\n{heading}:\n")[1].split("\n\n")[0] for heading in ("Data", "Network"))
    assert "--label-column" in images
    assert "--value-range" in images
    assert network.index("--weights ") < network.index("--weights-key") < network.index("--layers")
    assert "Precision in which the network computes" in " ".join(network.split())
    assert re.findall(r"^([A-Z][^:\n]*):$", done("info", "--help"), re.MULTILINE) == ["Options"]


def test_a_command_may_replace_a_shared_group() -> None:
    """finetune has its own Images and Machine, in its order; each heading is printed once."""
    headings = re.findall(r"^([A-Z][^:\n]*):$", done("finetune", "--help"), re.MULTILINE)
    groups = ["Initial weights", "Trained layers", "Training", "Data", "Records", "Machine", "Printing"]
    assert headings == ["Options", *groups]


def test_the_help_says_what_exit_statuses_mean() -> None:
    assert "Exit status: 0 done; 1 an error" in " ".join(done("--help").split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A. [1<=x<=200]", "A. [1 to 200]"),
        ("A. [default: 3; 0<=x<=65534]", "A. [default: 3; 0 to 65534]"),
        ("A. [x>=1]", "A."),
        ("A. [default: 4; x>=0]", "A. [default: 4]"),
        ("A. [x>=2]", "A. [at least 2]"),
        ("A. [x>0]", "A. [above 0]"),
        ("A. [0<x<1]", "A. [between 0 and 1]"),
        ("A. [1e-09<=x<=1000000000000000.0]", "A."),
        ("A. [0<=x<=1000000000000000.0]", "A."),
    ],
)
def test_bounds_in_words(text: str, expected: str) -> None:
    assert bounds_in_words(text) == expected


def test_the_first_sentence_of_a_help() -> None:
    assert first_sentence("Do this: a\n  b, c.\n\nMore. Text.") == "Do this: a b, c."
    assert first_sentence("Do this, as v1.2 does. Then stop.") == "Do this, as v1.2 does."


FILES = {"cache", "data", "model", "images", "a", "b", "first", "second", "report", "out", "weights", "page", "listed",
         "repair", "examples", "image_cache", "move_to", "link_to", "url", "folder"}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
def test_files_are_completed(name: str) -> None:
    """A shell whose completion is switched on asks for the files of each argument and option that takes one."""
    complete = ShellComplete(main, {}, "featcache", "_FEATCACHE_COMPLETE")
    for one in EVERY[name].params:
        number = isinstance(one.type, click.types.IntParamType)
        if one.name not in FILES or number:
            continue
        if (name, one.name) == ("plan", "images"):  # a number
            continue
        before = [one.opts[-1]] if isinstance(one, click.Option) else []
        typed = [*name.split(), *before]
        if isinstance(one, click.Argument):
            arguments = [other for other in EVERY[name].params if isinstance(other, click.Argument)]
            typed += ["x"] * arguments.index(one)
        assert [found.type for found in complete.get_completions(typed, "ph")] == ["file"], (name, one.name)


def test_quiet_prints_the_result_alone(cache: Path, tmp_path: Path) -> None:
    plain = featcache_cli("fit-head", cache, "--head", "sgd", "-p", "epochs=2")
    quiet = featcache_cli("fit-head", cache, "--head", "sgd", "-p", "epochs=2", "-q")
    assert "epoch" in plain.stdout
    assert "epoch" not in quiet.stdout
    assert "head sgd, val:" in quiet.stdout
    assert quiet.stderr == ""


def test_verbose_prints_steps_and_tracebacks(cache: Path, tmp_path: Path) -> None:
    result = featcache_cli("verify", cache, "-v")
    assert result.exit_code == 0, result.output
    assert re.search(r"^verify: \d+\.\d s$", result.stderr, re.MULTILINE)
    assert "verify:" not in featcache_cli("verify", cache).stderr
    failed = featcache_cli("info", tmp_path / "gone.h5", "-v")
    assert "Traceback" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in featcache_cli("info", tmp_path / "gone.h5").stderr


def test_progress_is_a_line_now_and_then_where_stderr_is_no_terminal(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while nothing is reported, as where a head is fitted."""
    monkeypatch.setattr(progress, "EVERY_S", 0.05)

    def verify(path: object, images: object, progress: progress.progress_bar) -> Difference:  # type: ignore
        for number in range(1, 5):
            progress("verify", number, 4)
            time.sleep(0.08)
        time.sleep(0.1)
        return Difference("a", "b", [], {})

    monkeypatch.setitem(vars(featcache), "verify", verify)
    monkeypatch.setattr(Difference, "ok", True, raising=False)
    result = featcache_cli("verify", cache)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert 3 <= len(lines) <= 10
    assert re.match(r"verify: 2 of 4 \(50 %\), 0 s, about 0 s left$", lines[1]), lines
    assert "\r" not in result.stderr
    assert featcache_cli("verify", cache, "-q").stderr == ""


def test_the_interval_is_ten_seconds() -> None:
    assert progress.EVERY_S == 10


def test_a_fit_shows_that_it_works(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    fit = featcache.fit_head

    def slow(*arguments: object, **settings: object) -> object:
        time.sleep(0.2)
        return fit(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setitem(vars(featcache), "fit_head", slow)
    result = featcache_cli("fit-head", cache, "--head", "ridge")
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == "fit ridge: 0 s"


def test_a_network_that_loads_is_named(tmp_path: Path) -> None:
    steps = []
    shown = progress.Display(progress.QUIET)
    shown.report = lambda *now: steps.append(now)  # type: ignore[method-assign]
    context = click.Context(main)
    context.meta["featcache.display"] = shown
    with context, progress.progress_bar(then=progress.LOADING) as report:
        report("hash", 1, 2)
        report("hash", 2, 2)
        report("extract", 1, 2)
    assert steps == [
        ("hash", 1, 2),
        ("hash", 2, 2),
        ("load the network, and convert it if it is new", 0, 0),
        ("extract", 1, 2),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-p C=bad", "LinearHead could not be fitted: C must be a number; got 'bad'"),
        ("-p tol=bad", "LinearHead could not be fitted: tol must be a number; got 'bad'"),
        ("-p C=True", "LinearHead could not be fitted: C must be a number; got True"),
        ("--head sgd -p lr=bad", "sgd: lr is 'bad'; it must be a number"),
        ("--head sgd -p momentum=bad", "sgd: momentum is 'bad'; it must be a number"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(cache: Path, line: str, said: str) -> None:
    assert refused("fit-head", cache, "--head", "linear", *line.split()) == said


def test_predictions_are_drawn_from_the_folder_of_val_too(cache: Path, tmp_path: Path) -> None:
    """`predict` takes photos/val, so people type it here as well."""
    done("fit-head", cache, "-o", tmp_path / "head")
    for name in ("data", "data/val"):
        out = tmp_path / f"{Path(name).name}.svg"
        assert done("show", "predictions", tmp_path / "head", cache.parent / name, "-o", out) == f"{out}\n"
    assert (tmp_path / "data.svg").read_bytes() == (tmp_path / "val.svg").read_bytes()
