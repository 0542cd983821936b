"""What is spelt is what the command line reads."""

from __future__ import annotations

import shlex
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.reports.commands import extract_command, format_command
from featcache_cli.main import main


def parsed(command: str) -> dict[str, Any]:
    """The settings that `featcache` would call the library with."""
    program, name, *arguments = shlex.split(command)
    assert program == "featcache"
    chosen = main.get_command(click.Context(main), name)
    assert chosen is not None
    return chosen.make_context(name, arguments).params


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (format_command("info", ["a.h5"], {}), "featcache info a.h5"),
        (format_command("info", ["my cache.h5"], {}), "featcache info 'my cache.h5'"),
        (format_command("x", [], {"allow_leak": True, "strict": False, "cv": None}), "featcache x --allow-leak"),
        (format_command("x", ["a"], {"out": "b", "budget_s": 2.5}), "featcache x a -o b --budget 2.5"),
        (format_command("x", [], {"seed": 0}), "featcache x --seed 0"),
        (format_command("x", [], {"at_most": {"a": 0.5, "b c": 1}}), "featcache x --at-most a=0.5 --at-most 'b c=1'"),
        (format_command("x", [], {"routes": ["cached", "frozen"]}), "featcache x --routes cached,frozen"),
        (format_command("x", [], {"layers": ("a", "b"), "parameters": None}), "featcache x --layers a,b"),
        (format_command("x", [], {"parameters": {"C": 0.1, "w": "balanced", "d": {0: 2}, "k": "1"}}),
         "featcache x -p C=0.1 -p w=balanced -p 'd={0: 2}' -p 'k='\"'\"'1'\"'\"''"),
    ],
)  # fmt: skip
def test_settings_are_spelt_as_options(command: str, expected: str) -> None:
    assert command == expected


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 9), inner, max_size=2),
    max_leaves=4,
)
SHARES = st.floats(0, 1, exclude_max=True)
OTHERS: dict[str, Any] = {
    "as_json": False, "report": None, "data": None, "cluster": None, "gpus_per_worker": None, "cpus_per_worker": None,
    "require": [],
}  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    cache=NAMES.filter(lambda name: not name.startswith("-")),
    given_settings=st.fixed_dictionaries(
        {
            "out": NAMES,
            "head": st.sampled_from(["linear", "auto", "sgd", "sklearn.naive_bayes.GaussianNB"]),
            "parameters": st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=3),
            "use_views": st.sampled_from([None, "all", "mean", "clean", "cycle"]),
            "cv": st.none() | st.integers(2, 9),
            "budget_s": st.none() | st.floats(0.001, 1e6),
            "scaling": st.sampled_from([None, "standard", "l2"]),
            "calibrate": st.booleans(),
            "thresholds": st.sampled_from([None, "f1"])
            | SHARES
            | st.dictionaries(NAMES, SHARES, min_size=1, max_size=3),
            "tta": st.integers(0, 9),
            "device": st.sampled_from(["cpu", "auto", "cuda:1"]),
            "layer": NAMES,
            "seed": st.integers(-9, 99),
        }
    ),
)
def test_fit_head_reads_what_is_spelt(cache: str, given_settings: dict[str, Any]) -> None:
    values = parsed(format_command("fit-head", [cache], given_settings))
    assert values == {"cache": (cache,), "unlabeled": False, **given_settings, **OTHERS}
    for name, value in given_settings["parameters"].items():
        assert type(values["parameters"][name]) is type(value)


VIEW = ViewSpec(96, 110, "bilinear", "crop", 7)
FULL = ExtractSpec("resnet18", "ab" * 32, VIEW, 6, ("layer3", "penultimate"),
                   "bf16", "float32", 2)  # fmt: skip


def test_extract_reads_all_that_decides_a_feature() -> None:
    provenance = {"weights": "/home/me/own weights.pth", "val_fraction": 0.3, "split_seed": 4, "allow_leak": True,
                  "host": "abacus"}  # fmt: skip
    command = extract_command(FULL, provenance, "my photos", "c.h5")
    assert command == (
        "featcache extract 'my photos' -o c.h5 --backbone resnet18 --weights 'own weights.pth' --augment crop "
        "--image-size 96 --interpolation bilinear --seed 7 --precision bf16 --val-views 2 "
        "--layers layer3,penultimate --dtype float32 --views 6 --val-fraction 0.3 --split-seed 4 --allow-leak"
    )
    values = parsed(command)
    assert (values["data"], values["out"], values["layers"]) == ("my photos", "c.h5", "layer3,penultimate")
    assert (values["val_fraction"], values["split_seed"], values["allow_leak"]) == (0.3, 4, True)
    assert (values["views"], values["val_views"], values["image_size"], values["seed"]) == (6, 2, 96, 7)


def test_what_a_cache_does_not_tell_is_left_to_the_defaults() -> None:
    spec = ExtractSpec("toy", "ab" * 32, ViewSpec(8, 10, mean=(0.5,) * 3, std=(0.5,) * 3), 0)
    command = extract_command(spec, {}, "DATA", "c.h5")
    assert command == (
        "featcache extract DATA -o c.h5 --backbone toy --weights pretrained --augment tutorial --image-size 8 "
        "--interpolation bilinear --seed 0 --precision fp32 --layers penultimate --dtype float16 --views 0"
    )
    values = parsed(command)
    assert (values["val_views"], values["allow_leak"], values["val_fraction"]) == (0, False, 0.2)
