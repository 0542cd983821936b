"""Every command and every line of Python in the README and in docs/ works as it stands there.

A page runs in a folder with `photos`, some tables, and the `cache.h5` and `head` of the README, unless it makes these.
Blocks of `sh` and `python` run in the order of the page. Commands in blocks of `console` need a download, a GPU or a
person: click reads them.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from commands import ROOT
from featcache.core.ray_cluster import RayCluster
from featcache_cli.main import COMMANDS, main
from outcomes import in_this_process
from registries import REGISTRIES, restore
from toys import random_image
from translations import TRANSLATIONS

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md" and "reference" not in path.parts
)
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
IN_A_SHELL = ("mkdir", "mv", "cp", "tar")
MADE = {
    "cache.h5": r"featcache extract photos -o cache\.h5|extract\(\"photos\", \"cache\.h5\"",
    "head": r"featcache fit-head cache\.h5 -o head(?! --overwrite)\s|fit_head\(\"cache\.h5\", \"head\"",
}
"""Files that a page has from the start, unless one of its own commands writes them."""
NOT_RUN = ("make", "python3", ".venv/bin/pip", ".venv/bin/featcache", "git", "cd", ".")
"""What installs: CI itself runs these."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.MULTILINE | re.DOTALL)


def lines(page: str, language: str) -> list[list[str]]:
    """The commands of a page, without comments; a backslash continues a line."""
    joined = "\n".join(blocks(page, language)).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def pages_with(*languages: str) -> list[str]:
    """Translations are left out: test_translations compares their commands with those of the English pages."""
    pages = [page for page in PAGES if page not in TRANSLATIONS]
    return [page for page in pages if any(blocks(page, language) for language in languages)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos and tables that the pages name, a cache and a head."""
    folder = tmp_path_factory.mktemp("pages")
    for split, count in (("train", 6), ("val", 3)):
        for tint, name in enumerate(("ants", "bees")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                image = random_image(100 * count + 10 * tint + number, 40, 30, tint)
                image.save(folder / "photos" / split / name / f"{number:03d}.jpg", quality=95)
    praise, blame = ("great", "wonderful", "lovely", "brilliant"), ("dull", "boring", "awful", "tedious")
    reviews = [f"A {word} {thing}.,{label}" for label, words in (("good", praise), ("bad", blame)) for word in words
               for thing in ("film", "play", "book", "song", "story")]  # fmt: skip
    (folder / "reviews.csv").write_text("\n".join(["text,label", *reviews]))
    new = ["text,label", "A lovely little tale.,good", "A tedious little tale.,bad"]
    (folder / "new-reviews.csv").write_text("\n".join(new))
    (folder / "traits.csv").write_text(*blocks("docs/guides/several-labels.md", "csv"))
    shutil.copy(folder / "photos/val/ants/000.jpg", folder / "new-photo.jpg")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        run(["featcache", "extract", "photos", "-o", "cache.h5"])
        run(["featcache", "fit-head", "cache.h5", "-o", "head"])
    return folder


@pytest.fixture
def one_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray is started once, by the first command with --cluster."""
    monkeypatch.setattr(RayCluster, "close", lambda _: None)
    yield
    import ray

    ray.shutdown()


def run(words: list[str]) -> None:
    if words[0] in NOT_RUN:
        return
    if words[0] in IN_A_SHELL:
        subprocess.run(words, check=True)
        return
    assert words[0] == "featcache", words
    result = CliRunner().invoke(main, words[1:])
    allowed = (0, 3, 4) if words[1] == "doctor" else (0,)  # these photos are noise
    assert result.exit_code in allowed, (words, result.output)


@pytest.mark.timeout(3600)  # minutes, on a machine with nothing else to do
@pytest.mark.usefixtures("one_cluster")
@pytest.mark.parametrize("page", pages_with("sh", "python"))
def test_a_page_runs_from_top_to_bottom(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    run_here = "".join(blocks(page, "sh") + blocks(page, "python"))
    own = [name for name, command in MADE.items() if re.search(command, run_here)]
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns(*own))
    monkeypatch.chdir(folder)
    in_this_process(monkeypatch)  # the routes of `benchmark`
    restore(monkeypatch, *REGISTRIES)  # pages on contributing register entries
    names: dict[str, object] = {"__name__": "page"}
    for language, block in re.findall(r"^```(sh|python)\n(.*?)^```", TEXTS[page], re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(block, page, "exec", dont_inherit=True), names)
        else:
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    run(words)


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_that_are_not_run_have_no_misspelt_option(page: str) -> None:
    commands = [words[1:] for words in lines(page, "console") if words[0] == "featcache"]
    for words in commands:
        context = main.make_context("featcache", [], resilient_parsing=True)
        command = main.get_command(context, words[0])
        assert command is not None, words
        command.make_context(words[0], words[1:], parent=context)


def test_the_files_of_options_are_toml() -> None:
    tables = [tomllib.loads(block) for page in PAGES for block in blocks(page, "toml")]
    of_commands = [name for table in tables for name in table if name != "project"]
    assert of_commands
    assert set(of_commands) <= set(COMMANDS)


def test_every_command_is_in_a_guide() -> None:
    guides = [text for page, text in TEXTS.items() if page.startswith("docs/")]
    assert [name for name in COMMANDS if not any(re.search(rf"featcache {name}\b", text) for text in guides)] == []
    show = main.get_command(click.Context(main), "show")
    assert isinstance(show, click.Group)
    missing = [name for name in show.commands if not any(f"featcache show {name}" in text for text in guides)]
    assert missing == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert script.rstrip().endswith("make test")
    assert "make test " in TEXTS["README.md"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page, text in TEXTS.items():
        for verb in re.findall(r"`make ([a-z]+)|^make ([a-z]+)", text, re.MULTILINE):
            assert f"\n{''.join(verb)}:" in makefile, (page, verb)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", TEXTS[page]):
        if "://" not in link:
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 150
