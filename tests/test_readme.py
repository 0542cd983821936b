"""Every command and every line of Python in the README works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from featcache_cli.main import main
from toys import random_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands(language: str) -> list[list[str]]:
    lines = [line for block in blocks(language) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("featcache ")]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for split, count in (("train", 6), ("val", 3)):
        for tint, name in enumerate(("ants", "bees")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                image = random_image(100 * count + 10 * tint + number, 40, 30, tint)
                image.save(tmp_path / "photos" / split / name / f"{number:03d}.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.usefixtures("photos")
def test_every_shell_command_runs_in_the_order_of_the_readme(tmp_path: Path) -> None:
    assert {command[0] for command in commands("sh")} >= {
        "extract",
        "info",
        "fit-head",
        "predict",
        "benchmark",
        "finetune",
    }
    for command in commands("sh"):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, (command, result.output)
    for name in ("report.md", "report.json", "report.png"):
        assert (tmp_path / "report" / name).stat().st_size > 1000


def test_commands_that_need_a_download_are_spelt_rightly() -> None:
    assert commands("console")
    for command in commands("console"):
        subcommand = main.get_command(main.make_context("featcache", [], resilient_parsing=True), command[0])
        assert subcommand is not None
        subcommand.make_context(command[0], command[1:])


@pytest.mark.usefixtures("photos")
def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert "photos/val/ants/000.jpg" in printed
    assert "{'penultimate': 1280}" in printed


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("make test")
    assert "make test " in README
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for verb in re.findall(r"`?make ([a-z]+)", README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert f"\n{verb}:" in makefile, verb


def test_links_and_pictures_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
