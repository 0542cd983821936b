"""Plans that contradict themselves are refused before any work, with the way out."""

from __future__ import annotations

from typing import Any

import pytest

from featcache.errors import RunError
from featcache.finetuning.strategy import FineTuneStrategy, make_strategy

NOTHING: dict[str, Any] = {
    "init_head": None,
    "reuse_until": None,
    "unfreeze": "all",
    "layer_decay": 1.0,
    "batchnorm": None,
    "wise_ft": None,
}


def made(mode: Any = "all", weights: str = "pretrained", **options: Any) -> FineTuneStrategy:
    return make_strategy(mode, weights, **{**NOTHING, **options})


def test_nothing_asked_is_plain_fine_tuning() -> None:
    assert made() == made("head") == made(weights="none") == FineTuneStrategy(None, None, 0, 1.0, "train", None)
    assert FineTuneStrategy().config() == {**NOTHING, "batchnorm": "train"}


@pytest.mark.parametrize(("unfreeze", "stages"), [("all", 0), ("last-stage", 1), (1, 1), (3, 3)])
def test_stages_are_counted_from_the_last(unfreeze: Any, stages: int) -> None:
    assert made(unfreeze=unfreeze).unfreeze == stages
    assert made(unfreeze=unfreeze).config()["unfreeze"] == (stages or "all")


@pytest.mark.parametrize(
    ("batchnorm", "init_head", "expected"),
    [(None, None, "train"), (None, "head", "eval"), ("train", "head", "train"), ("eval", None, "eval")],
)
def test_batchnorm_keeps_its_statistics_below_a_fitted_head(batchnorm: Any, init_head: Any, expected: str) -> None:
    assert made(batchnorm=batchnorm, init_head=init_head).batchnorm == expected


def test_a_head_s_name_is_no_part_of_what_a_resumed_run_has_in_common() -> None:
    assert made(init_head="one").config() == made(init_head="other").config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"unfreeze": value}, f"--unfreeze is {value}; it must be all, last-stage, or the number of last ")
            for value in (0, -1, True, "0", "some", 1.5)
        ),
        *(({"layer_decay": value}, f"--layer-decay is {value}; ") for value in (0, -0.5, 1.5, float("nan"))),
        ({"batchnorm": "off"}, "--batchnorm is 'off'; it must be train or eval"),
        *(
            ({"wise_ft": value, "init_head": "head"}, f"--wise-ft is {value}; it must be from 0")
            for value in (-0.1, 1.1, float("nan"))
        ),
        ({"wise_ft": 0.5}, "--wise-ft averages with the initial weights, whose head is random without --init-head: "),
        ({"init_head": "head", "reuse_until": "layer1"}, "--init-head was fitted on features of the whole "),
    ],
)
def test_settings_that_are_none_or_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as caught:
        made(**options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reuse_until", "layer1"),
        ("unfreeze", 1),
        ("layer_decay", 0.5),
        ("batchnorm", "eval"),
        ("batchnorm", "train"),
    ],
)
def test_a_head_alone_refuses_what_is_about_the_network(option: str, value: Any) -> None:
    with pytest.raises(RunError) as caught:
        made("head", **{option: value})
    named = f"--{option.replace('_', '-')}"
    assert (
        str(caught.value) == f"--train head does not change the network, so {named} has no effect: drop one of the two"
    )


def test_a_head_alone_begins_with_a_fitted_one_but_is_not_averaged() -> None:
    assert made("head", init_head="head").init_head == "head"
    with pytest.raises(RunError, match="so --wise-ft has no effect: drop one of the two"):
        made("head", init_head="head", wise_ft=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("init_head", "head"), ("reuse_until", "layer1"), ("unfreeze", 1), ("layer_decay", 0.5), ("batchnorm", "eval")],
)
def test_random_weights_refuse_what_keeps_pretrained_ones(option: str, value: Any) -> None:
    with pytest.raises(RunError) as caught:
        made(weights="none", **{option: value})
    assert str(caught.value) == (
        f"--init scratch has no pretrained weights, so --{option.replace('_', '-')} has no effect: drop one of the two"
    )


def test_random_weights_may_train_their_batchnorm() -> None:
    assert made(weights="none", batchnorm="train").batchnorm == "train"
