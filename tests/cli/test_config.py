"""--config: options and arguments from a TOML file, as if they stood on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from commands import done, featcache_cli, refused
from featcache.core.model_card import ModelCard
from featcache_cli import fit_head, predict
from featcache_cli.config import parameters_of


def write(folder: Path, text: str) -> Path:
    (folder / "project.toml").write_text(text)
    return folder / "project.toml"


def test_arguments_and_options_come_from_the_table_of_the_command(cache: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path,
        f"""
        [fit-head]
        cache = {str(cache)!r}
        out = {str(tmp_path / "head")!r}
        head = "linear"
        p = ["C=0.5"]
        json = true

        [predict]
        model = {str(tmp_path / "head")!r}
        samples = [{str(cache)!r}]
        split = "val"
        top = 1
        """,
    )
    fitted = json.loads(done("--config", file, "fit-head"))
    assert (fitted["head"], fitted["path"]) == ("linear", str(tmp_path / "head"))
    typed = done("fit-head", cache, "-o", tmp_path / "other", "--head", "linear", "-p", "C=0.5", "--json")
    assert fitted["log_loss"] == json.loads(typed)["log_loss"]
    weights = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("head", "other")]
    assert weights[0] == weights[1]
    assert done("--config", file, "predict") == done(
        "predict", tmp_path / "head", cache, "--split", "val", "--top", "1"
    )


def test_the_command_line_goes_first(cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path, f"[fit-head]\ncache = {str(cache)!r}\nhead = 'linear'\nout = {str(tmp_path / 'a')!r}\n")
    done("--config", file, "fit-head", "--head", "ridge", "-o", tmp_path / "b")
    assert ModelCard.read(tmp_path / "b").head == "ridge"
    assert not (tmp_path / "a").exists()


def test_tables_of_figures_are_nested(cache: Path, tmp_path: Path) -> None:
    done("fit-head", cache, "-o", tmp_path / "head", "--head", "linear")
    file = write(tmp_path, f"[show.confusion]\nmodel = {str(tmp_path / 'head')!r}\nout = {str(tmp_path / 'c.png')!r}\n")
    assert done("--config", file, "show", "confusion").strip() == str(tmp_path / "c.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fit-head]\ncach = 'x'", "fit-head has no option 'cach'. Did you mean cache?"),
        ("[fithead]\ncache = 'x'", "there is no command 'fithead'. Did you mean fit-head?"),
        ("cache = 'x'", "cache is not in a table of a command"),
        ("[fit-head]\nout = ['x']", "out of fit-head takes one value, not a list"),
        ("[fit-head\n", "is not a TOML file"),
        ("[fit-head]\ncache = 'x'\n[predict]\nmodle = 'x'", "predict has no option 'modle'. Did you mean model?"),
        ("[show.confusion]\nmodle = 'x'", "show.confusion has no option 'modle'. Did you mean model?"),
        ("[show.confusoin]\nmodel = 'x'", "there is no command 'show.confusoin'. Did you mean confusion?"),
        ("[show]\nmodel = 'x'", "model is in [show], which holds tables alone: [show.confusion], "),
        ("[fit-head]\ncache = 'x'\nseed = 'many'", "Invalid value for '--seed'"),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    assert message in refused("--config", write(tmp_path, text), "fit-head", status=2)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "no.toml" in refused("--config", tmp_path / "no.toml", "fit-head", status=2)


def test_other_commands_do_not_see_the_table(cache: Path, tmp_path: Path) -> None:
    file = write(tmp_path, "[extract]\nviews = 3\n")
    assert featcache_cli("--config", file, "info", cache).stdout == featcache_cli("info", cache).stdout


def test_every_option_can_be_written_as_it_is_typed() -> None:
    for command in (fit_head.command, predict.command):
        for param in command.params:
            for name in param.opts if isinstance(param, click.Option) else ():
                assert list(parameters_of(command, {name.lstrip("-"): "x"}, "c")) == [param.name]
