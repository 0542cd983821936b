from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete, shell_complete

import featcache
from commands import done, featcache_cli, in_process, refused
from featcache import errors
from featcache.backbones.devices import name_devices, resolve_device
from featcache.errors import FeatcacheError
from featcache_cli.main import COMMANDS, main

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, FeatcacheError)]


def _command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def test_the_help_names_every_command_and_every_command_is_a_file() -> None:
    folder = Path(importlib.import_module("featcache_cli").__file__ or "").parent
    files = {path.stem.replace("try_", "try").replace("_", "-") for path in folder.glob("*.py")} - {
        *("--init--", "base", "entry", "lazy-choice", "main", "memory", "options", "outputs", "progress", "results"),
        *("config", "predict-summary", "requirements", "stopping", "version", "wrapping"),
    }
    assert set(COMMANDS) == files
    text = done("--help")
    first_words = [line.split()[0] for line in text.splitlines() if re.match("  [a-z]", line)]
    assert [word for word in first_words if word in COMMANDS] == list(COMMANDS)
    assert not re.search(r"\w\.\.\.$", text, re.MULTILINE)  # sentences are whole


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name: str) -> None:
    text = done(name, "--help")
    assert text == done(name, "-h")
    assert text.startswith(f"Usage: main {name} ")
    assert (_command(name).help or "").split("\n")[0].endswith((".", ":"))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        pytest.param(name, option, id=f"{name} {option.opts[-1]}")
        for name in COMMANDS
        for option in _command(name).params
        if isinstance(option, click.Option)
    ],
)
def test_an_option_is_documented(name: str, option: click.Option) -> None:
    assert option.help, f"featcache {name} {option.opts[-1]} has no help"
    if option.deprecated:  # a former name: its message names the new one, which the help shows
        assert str(option.deprecated).removeprefix("use ") in done(name, "--help")
    else:
        assert option.opts[-1] in done(name, "--help")


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo", "show"}))
def test_a_command_that_prints_results_has_json(name: str) -> None:
    assert any("--json" in option.opts for option in _command(name).params)


def test_the_version_is_the_packages_with_what_a_report_of_a_bug_needs() -> None:
    first, second = done("--version").strip().splitlines()
    assert first == f"featcache, version {importlib.metadata.version('featcache')}"
    python, torch, device, *_ = second.split(", ")
    assert python == f"Python {platform.python_version()}"
    assert torch == f"PyTorch {importlib.metadata.version('torch')}"
    assert device == f"device {name_devices([resolve_device('auto')])}"


@pytest.mark.parametrize(("shell", "mark"), [("bash", "complete -o nosort"), ("zsh", "#compdef featcache"),
                                             ("fish", "complete --no-files --command featcache")])  # fmt: skip
def test_the_completion_script_of_a_shell_is_printed(
    shell: str, mark: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))  # it starts bash
    assert shell_complete(main, {}, "featcache", "_FEATCACHE_COMPLETE", f"{shell}_source") == 0
    script = capsys.readouterr().out
    assert mark in script
    assert f"_FEATCACHE_COMPLETE={shell}_complete" in script


def test_a_shell_completes_commands_and_options(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, expected in (("featcache ext", "plain,extract"), ("featcache extract --val-f", "plain,--val-fraction")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert shell_complete(main, {}, "featcache", "_FEATCACHE_COMPLETE", "bash_complete") == 0
        assert expected in capsys.readouterr().out.splitlines()


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    assert "There is no command 'extrakt'. Did you mean extract?" in refused("extrakt", status=2)
    assert "--imagesize" in refused("extract", "data", "-o", "c.h5", "--imagesize", 3, status=2)
    assert "'-o' / '--out'" in refused("extract", "data", status=2)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_every_error_is_a_message_and_status_1(cls: type[FeatcacheError], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise cls("what is wrong, and the cure")

    monkeypatch.setitem(vars(featcache), "fit_head", fails)
    result = featcache_cli("fit-head", "some.h5")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: what is wrong, and the cure\n")


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setitem(vars(featcache), "fit_head", fails)
    assert isinstance(featcache_cli("fit-head", "some.h5").exception, RuntimeError)


def test_a_real_process_ends_with_status_1_and_no_traceback(tmp_path: Path) -> None:
    ran = in_process("from featcache_cli.main import main; main()", "info", tmp_path / "gone.h5")
    assert (ran.returncode, ran.stdout) == (1, "")
    gone = tmp_path / "gone.h5"
    assert ran.stderr == f"Error: {gone} does not exist. Make it with `featcache extract DATA -o {gone}`.\n"
