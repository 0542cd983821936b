"""The text of the verdict case by case, and that it never calls noise a gain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.analysis.benchmark.budget import BudgetUsage, SkippedRun
from featcache.analysis.benchmark.outcomes import COLD, WARM, Comparison
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.finetuning.convergence import TrainingRun
from featcache.metrics.significance import paired_difference
from outcomes import answers, comparison, four_routes, outcome

LPFT, FINETUNE, FROZEN, SCRATCH = (ROUTES[name] for name in ("lpft", "finetune", "frozen", "scratch"))


def _right(*marks: Sequence[bool]) -> list[dict[str, bool]]:
    """One repeat each."""
    return [{f"{image:03d}.png": bool(mark) for image, mark in enumerate(row)} for row in marks]


def _against(only_cached: int, only_rival: int, n: int = 100, cached: int = 80) -> tuple[Any, Any]:
    """Answers of the cached head, right on `cached` of n, and of a rival, with so many that one alone got right."""
    ours = np.arange(n) < cached
    theirs = ours.copy()
    theirs[:only_cached] = False
    theirs[cached : cached + only_rival] = True
    return _right(ours), _right(theirs)


def _two(
    only_cached: int,
    only_rival: int,
    n: int = 100,
    cached: int = 80,
    cold_s: float = 13.0,
    rival_s: float = 540.0,
    warm_s: float = 3.0,
    name: str = FINETUNE,
    **changes: Any,
) -> Comparison:
    ours, theirs = _against(only_cached, only_rival, n, cached)
    return comparison(
        outcome(COLD, right=ours, wall_s=[cold_s]),
        outcome(WARM, right=ours, wall_s=[warm_s]),
        outcome(name, right=theirs, wall_s=[rival_s], **changes),
    )


SEED = (
    "One run per route: p values and intervals compare these models, and another seed gives other models. "
    "--repeats 3 includes the variance between seeds."
)


def test_not_distinguishable_is_stay_with_what_the_images_leave_open() -> None:
    verdict = reach_verdict(_two(2, 3, epoch_s=50.0))
    assert str(verdict).splitlines() == [
        "The cached head (0.800 ± 0.078) does not differ significantly from fine-tuning (0.810 ± 0.076, McNemar p = "
        "1). It was 42 times faster than fine-tuning (13 seconds against 9 minutes; 180 times faster once the features "
        "are cached): keep the cached head.",
        "- Based on 100 val images.",
        "- 100 val images show differences of about 5.1 points or more: fine-tuning may be up to 6.1 points more "
        "accurate (95 % interval -4.1 to +6.1 points). An interval of ± 2 points needs about 650 val images.",
        "- Break-even: the cache is faster than fine-tuning (from 1 epoch or 1 head on).",
        "- Trained networks are scored at their last epoch: picking the best epoch on the same val images would bias "
        "the score upward.",
        f"- {SEED}",
    ]
    assert (verdict.decision, verdict.route, verdict.split, verdict.n, verdict.repeats) == ("stay", COLD, "val", 100, 1)
    (rival,) = verdict.challengers
    assert (rival.accuracy, rival.gain, rival.p) == (pytest.approx(0.81), pytest.approx(0.01), 1.0)
    assert (rival.cold_ratio, rival.warm_ratio) == (pytest.approx(540 / 13), pytest.approx(180))


def test_the_four_routes_of_the_other_tests() -> None:
    verdict = reach_verdict(four_routes())
    assert verdict.text == (
        "The cached head (0.940 ± 0.048) does not differ significantly from fine-tuning (0.960 ± 0.041, McNemar p = 1) "
        "or the frozen network run live (0.930 ± 0.052, McNemar p = 1). It was 5.0 times faster than fine-tuning (60 "
        "seconds against 5 minutes; 75 times faster once the features are cached): keep the cached head."
    )
    assert verdict.notes[0] == "Based on 100 val images. The p values are corrected for 2 comparisons (Holm)."


def test_what_would_be_a_gain_of_a_single_pair_is_none_among_several() -> None:
    ours, better = _against(2, 10)
    names = (FINETUNE, LPFT, FROZEN)
    rivals = [outcome(name, right=right) for name, right in zip(names, (better, ours, ours), strict=True)]
    alone = reach_verdict(comparison(outcome(COLD, right=ours), rivals[0]))
    among = reach_verdict(comparison(outcome(COLD, right=ours), *rivals))
    assert (alone.decision, alone.challengers[0].p) == ("switch", pytest.approx(0.0386, abs=5e-5))
    assert (among.decision, among.challengers[0].p) == ("stay", pytest.approx(3 * 0.0386, abs=2e-4))
    assert among.notes[1] == (
        "100 val images show differences of about 7 points or more: fine-tuning may be up to 14.9 points more accurate "
        "(95 % interval +0.8 to +14.9 points). As a single comparison the gain is significant; among 3 it is not. An "
        "interval of ± 2 points needs about 1,300 val images."
    )


def test_a_gain_that_is_none_even_alone_is_not_said_to_be_one() -> None:
    """The interval leaves 0 out where the exact test does not: p is what decides."""
    verdict = reach_verdict(_two(2, 9))
    assert (verdict.decision, verdict.challengers[0].p_alone) == ("stay", pytest.approx(0.0654, abs=5e-5))
    assert verdict.challengers[0].low > 0
    assert "As a single comparison" not in str(verdict)


def test_a_cheaper_way_that_may_lack_five_points_does_not_get_there() -> None:
    """Not distinguishable from fine-tuning, and yet five points below it."""
    ours, theirs = _against(0, 19)
    _, behind = _against(0, 14)
    verdict = reach_verdict(
        comparison(
            outcome(COLD, right=ours, wall_s=[13.0]),
            outcome(LPFT, right=behind, wall_s=[240.0]),
            outcome(FINETUNE, right=theirs, wall_s=[540.0]),
        )
    )
    assert paired_difference(*(np.array([list(right[0].values())]) for right in (behind, theirs))).p > 0.05
    assert (verdict.decision, verdict.route) == ("switch", FINETUNE)
    assert "is as accurate in" not in verdict.text


def test_many_images_without_a_difference_rule_a_gain_out() -> None:
    verdict = reach_verdict(_two(20, 20, n=10_000, cached=9_000))
    assert verdict.notes[1] == (
        "10,000 val images show differences of about 0.1 points or more: fine-tuning is at most 0.1 points more "
        "accurate (95 % interval)."
    )


def test_a_gain_is_named_with_its_price_and_the_cheaper_way_there() -> None:
    ours, theirs = _against(1, 19)
    _, gentle = _against(1, 18)
    runs = comparison(
        outcome(COLD, right=ours, wall_s=[13.0]),
        outcome(FROZEN, right=ours, wall_s=[100.0]),
        outcome(LPFT, right=gentle, wall_s=[240.0]),
        outcome(FINETUNE, right=theirs, wall_s=[540.0]),
    )
    verdict = reach_verdict(runs)
    assert verdict.text == (
        "In one run of each route, fine-tuning is more accurate than the cached head by 18 points (0.980 ± 0.032 "
        "against 0.800 ± 0.078; 95 % interval +9.3 to +26.0 points, McNemar p < 0.001). It took 9 minutes against 13 "
        "seconds; the gain is worth the time. LP-FT is as accurate in 4 minutes (0.970 ± 0.037; no significant "
        "difference from fine-tuning, McNemar p = 1)."
    )
    assert (verdict.decision, verdict.route) == ("switch", LPFT)
    assert not any("more accurate" in note for note in verdict.notes)


def test_a_cheaper_way_that_is_worse_or_that_proves_nothing_does_not_get_there() -> None:
    ours, theirs = _against(0, 20)
    _, half = _against(0, 10)
    _, little = _against(0, 4)
    base = [outcome(COLD, right=ours, wall_s=[13.0]), outcome(FINETUNE, right=theirs, wall_s=[540.0])]
    for way in (half, little):
        verdict = reach_verdict(comparison(*base, outcome(LPFT, right=way, wall_s=[240.0])))
        assert "is as accurate in" not in verdict.text
        assert verdict.route == FINETUNE


def test_a_slower_way_there_is_not_named() -> None:
    ours, theirs = _against(0, 20)
    _, other = _against(0, 19)
    verdict = reach_verdict(
        comparison(
            outcome(COLD, right=ours, wall_s=[13.0]),
            outcome(LPFT, right=other, wall_s=[600.0]),
            outcome(FINETUNE, right=theirs, wall_s=[540.0]),
        )
    )
    assert verdict.route == FINETUNE


def test_a_small_sure_gain_is_left_to_the_reader() -> None:
    verdict = reach_verdict(_two(10, 60, n=10_000, cached=9_000, rival_s=7200))
    assert verdict.text.endswith(
        "McNemar p < 0.001). It took 2 hours against 13 seconds: decide whether this gain is worth the time."
    )
    assert (verdict.decision, verdict.route) == ("tradeoff", FINETUNE)


def test_a_gain_that_costs_nothing_is_taken() -> None:
    verdict = reach_verdict(_two(0, 20, cold_s=60.0, rival_s=60.0))
    assert verdict.text.endswith(" and took no longer (60 seconds against 60 seconds): use fine-tuning.")


def test_the_cached_head_can_be_better() -> None:
    verdict = reach_verdict(_two(30, 0, name=SCRATCH))
    assert verdict.text == (
        "In one run of each route, the cached head (0.800 ± 0.078) is more accurate than training from scratch (0.500 "
        "± 0.096) by 30 points (McNemar p < 0.001). It was 42 times faster than training from scratch (13 seconds "
        "against 9 minutes; 180 times faster once the features are cached): keep the cached head."
    )
    assert verdict.decision == "stay"
    assert not any("show differences" in note for note in verdict.notes)


def test_ties_are_named_before_those_that_are_worse() -> None:
    ours, tied = _against(1, 2)
    _, worse = _against(30, 0)
    verdict = reach_verdict(
        comparison(outcome(COLD, right=ours), outcome(FINETUNE, right=tied), outcome(SCRATCH, right=worse))
    )
    assert verdict.text == (
        "The cached head (0.800 ± 0.078) does not differ significantly from fine-tuning (0.810 ± 0.076, McNemar p = "
        "1). It is more accurate than training from scratch (0.500 ± 0.096) by 30 points (McNemar p < 0.001). It took "
        "about as long as fine-tuning (20 seconds against 20 seconds): keep the cached head."
    )


@pytest.mark.parametrize(
    ("rival_s", "warm_s", "words"),
    [
        (13.2, 3.0, "It took about as long as fine-tuning (13 seconds against 13 seconds; 4.4 times faster once the "
         "features are cached): keep the cached head."),
        (6.5, 3.0, "It was 2.0 times slower than fine-tuning (13 seconds against 6.5 seconds), but each further head "
         "takes 3 seconds: keep the cached head if you fit more than one head."),
        (6.5, 7.0, "It was 2.0 times slower than fine-tuning (13 seconds against 6.5 seconds): on this data a cache "
         "has no advantage."),
    ],
)  # fmt: skip
def test_a_cache_that_was_not_faster_says_so(rival_s: float, warm_s: float, words: str) -> None:
    assert words in reach_verdict(_two(1, 1, rival_s=rival_s, warm_s=warm_s)).text


def test_a_p_near_the_limit_is_not_rounded_onto_it() -> None:
    # of 67 tosses at most 25 heads, or at least 42: 0.04980; of 32 at most 10, or at least 22: 0.05010
    sure, unsure = (reach_verdict(_two(*alone, n=200, cached=150)) for alone in ((25, 42), (10, 22)))
    assert "McNemar p = 0.0498" in sure.text
    assert sure.decision == "switch"
    assert "McNemar p = 0.0501" in unsure.text
    assert unsure.decision == "stay"


def test_test_settles_it_where_all_routes_kept_their_predictions_of_it() -> None:
    ours, theirs = _against(0, 20)
    same, _ = _against(0, 0)
    runs = comparison(
        outcome(COLD, right=ours, test_right=same, test_n=100),
        outcome(FINETUNE, right=theirs, test_right=same, test_n=100, epoch_s=1.0),
    )
    verdict = reach_verdict(runs)
    assert (verdict.decision, verdict.split) == ("stay", "test")
    assert verdict.notes[0] == "Based on 100 test images."
    assert "No route selected anything on test." in verdict.notes
    lost = reach_verdict(comparison(runs.outcomes[0], replace(runs.outcomes[1], test_right=[])))
    assert (lost.decision, lost.split) == ("switch", "val")
    assert "There is a test split, but the test predictions of some routes are missing." in lost.notes


def test_repeats_are_averaged_by_image() -> None:
    """Three seeds each; twelve images on which the rival is right twice of three, by turns, the cached head never."""
    ours = np.zeros((3, 50), bool)
    ours[:, 12:] = True
    theirs = ours.copy()
    for seed in range(3):
        theirs[seed, :12] = np.arange(12) % 3 != seed
    verdict = reach_verdict(comparison(outcome(COLD, right=_right(*ours)), outcome(FINETUNE, right=_right(*theirs))))
    (rival,) = verdict.challengers
    assert (rival.gain, rival.p) == (pytest.approx(24 / 150), pytest.approx(2 / 2**12))
    assert "paired p < 0.001" in verdict.text
    assert verdict.notes[0] == "Based on 50 val images and the mean of up to 3 seeds per route."
    assert SEED not in verdict.notes


def test_images_that_a_route_could_not_read_are_left_out_of_every_pair() -> None:
    ours, theirs = answers(90), answers(90)
    for name in ("000.png", "001.png"):
        del theirs[0][name]
    verdict = reach_verdict(comparison(outcome(COLD, right=ours), outcome(FINETUNE, right=theirs)))
    assert verdict.n == 98
    assert verdict.challengers[0].gain == 0.0
    assert "2 val images that a route could not read are excluded." in verdict.notes


def test_sgd_chooses_by_val_too() -> None:
    notes = reach_verdict(
        comparison(outcome(COLD, right=answers(9)), outcome(LPFT, right=answers(9), epoch_s=1.0), head="sgd")
    ).notes
    assert "The cached head (sgd) kept its best epoch on these val images: its accuracy is optimistic." in notes


def test_what_the_budget_left_out_is_said() -> None:
    spent = BudgetUsage(600.0, 400.0, (SkippedRun("finetune", 0, 540.0, 240.0), SkippedRun("lpft", 1, 300.0, 20.0)))
    verdict = reach_verdict(replace(_two(0, 0), spending=spent))
    assert verdict.notes[-1] == (
        "Skipped because of the budget of 10 minutes: fine-tune (takes about 9 minutes, 4 minutes left); from seed 1 "
        "on LP-FT (takes about 5 minutes, 20 seconds left)."
    )


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ([outcome(FINETUNE, right=answers(9))], "the benchmark did not run the cached head"),
        ([outcome(COLD, right=answers(9)), outcome(WARM, right=answers(9))], "the benchmark only ran the cached head"),
        ([outcome(COLD), outcome(FINETUNE, right=answers(9))], "the predictions of the routes are missing from "
         "their model folders"),
        ([outcome(COLD, right=answers(9)), outcome(FINETUNE)], "the predictions of the routes are missing from "
         "their model folders"),
    ],
)  # fmt: skip
def test_without_two_sides_there_is_no_verdict(outcomes: list[Any], reason: str) -> None:
    verdict = reach_verdict(comparison(*outcomes))
    assert (verdict.decision, verdict.text) == ("none", f"No verdict: {reason}.")


def test_a_route_without_predictions_is_named() -> None:
    verdict = reach_verdict(
        comparison(outcome(COLD, right=answers(9)), outcome(LPFT, right=answers(9)), outcome(SCRATCH))
    )
    assert (
        verdict.notes[-1]
        == "Not judged, because the predictions are missing from the model folder: training from scratch."
    )
    assert [rival.route for rival in verdict.challengers] == [LPFT]


def test_it_is_json() -> None:
    verdict = reach_verdict(four_routes()).to_dict()
    assert json.loads(json.dumps(verdict)) == verdict
    assert [rival["route"] for rival in verdict["rivals"]] == [FROZEN, FINETUNE]
    assert sorted(verdict) == ["decision", "n", "notes", "repeats", "rivals", "route", "split", "text", "unfinished"]


def _short(*losses: float, steps: int = 45) -> list[TrainingRun]:
    return [replace(TrainingRun.from_history(losses, {"epochs": len(losses)}, 1437, 10), steps=steps)]


def test_a_training_that_stopped_early_is_never_said_to_be_beaten() -> None:
    """Three epochs of two steps, 30 points behind: nothing is said but how long it trained, in the first sentence."""
    ours, behind = _against(30, 0)
    short = _short(2.3, 2.2, 2.1, steps=6)
    verdict = reach_verdict(comparison(outcome(COLD, right=ours), outcome(FROZEN, right=behind, trainings=short)))
    assert verdict.text == (
        "The frozen network run live trained for 3 epochs (6 steps), too few to tell whether the training loss has "
        "levelled off. There is no verdict about it. Accuracy so far: the cached head 0.800 ± 0.078 and the frozen "
        "network run live 0.500 ± 0.096. Train with more --epochs for a verdict."
    )
    assert (verdict.decision, verdict.route, verdict.unfinished) == ("none", None, (FROZEN,))
    assert verdict.challengers[0].p < 0.001  # the figures are there, for those who want them
    assert "more accurate" not in str(verdict)


def test_what_was_trained_is_judged_and_the_rest_named_first() -> None:
    ours, behind = _against(30, 0)
    short = {"right": behind, "trainings": _short(2.3)}
    verdict = reach_verdict(
        comparison(
            outcome(COLD, right=ours),
            outcome(FINETUNE, **short),
            outcome(SCRATCH, **short),
            outcome(FROZEN, right=ours, trainings=_short(*[2.0] + 11 * [0.4])),
        )
    )
    assert verdict.text == (
        "Fine-tuning and training from scratch trained for 1 epoch (45 steps), too few to tell whether the training "
        "loss has levelled off. There is no verdict about them. The cached head (0.800 ± 0.078) does not differ "
        "significantly from the frozen network run live (0.800 ± 0.078, McNemar p = 1). It took about as long as the "
        "frozen network run live (20 seconds against 20 seconds): keep the cached head."
    )
    assert (verdict.decision, verdict.unfinished) == ("stay", (FINETUNE, SCRATCH))
    assert (
        "Accuracy of unfinished routes so far: fine-tuning 0.500 ± 0.096 and training from scratch 0.500 ± 0.096."
    ) in verdict.notes
    assert all("fine-tuning may be" not in note for note in verdict.notes)


def test_a_tie_with_an_unfinished_training_is_no_verdict_either() -> None:
    ours, tied = _against(1, 2)
    verdict = reach_verdict(
        comparison(outcome(COLD, right=ours), outcome(FINETUNE, right=tied, trainings=_short(1.0, 0.9)))
    )
    assert verdict.decision == "none"
    assert "keep" not in verdict.text


def test_what_is_better_before_its_end_is_better() -> None:
    ours, theirs = _against(0, 20)
    verdict = reach_verdict(
        comparison(outcome(COLD, right=ours), outcome(FINETUNE, right=theirs, trainings=_short(1.0, 0.5)))
    )
    assert (verdict.decision, verdict.route, verdict.unfinished) == ("switch", FINETUNE, ())
    assert verdict.text.startswith(
        "In one run of each route, fine-tuning is more accurate than the cached head by 20 points"
    )
    assert "Fine-tuning may improve with more epochs: the training had not converged." in verdict.notes


NAMES = (FROZEN, LPFT, FINETUNE, SCRATCH)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.booleans(), min_size=1, max_size=200),
    st.integers(1, 4),
    st.lists(st.floats(0.1, 1e4), min_size=5, max_size=5),
)
def test_the_same_answers_are_never_a_win(marks: list[bool], rivals: int, seconds: list[float]) -> None:
    routes = zip((COLD, *NAMES[:rivals]), seconds, strict=False)
    verdict = reach_verdict(
        comparison(*(outcome(name, right=_right(marks), wall_s=[wall_s]) for name, wall_s in routes))
    )
    assert verdict.decision == "stay"
    assert "more accurate" not in verdict.text
    assert all((rival.gain, rival.p) == (0.0, 1.0) for rival in verdict.challengers)


@pytest.mark.parametrize(("n", "repeats", "rate", "rivals"), [(150, 1, 0.9, 1), (150, 1, 0.9, 4), (100, 3, 0.7, 4)])
def test_noise_is_called_a_win_no_more_often_than_it_may(n: int, repeats: int, rate: float, rivals: int) -> None:
    """All routes equally good: any called better or worse, over several rivals, in at most 5 % of the draws."""
    draw = np.random.default_rng(11)
    called = 0
    for _ in range(400):
        runs = [outcome(name, right=_right(*(draw.random((repeats, n)) < rate))) for name in (COLD, *NAMES[:rivals])]
        verdict = reach_verdict(comparison(*runs))
        called += any(rival.p < 0.05 for rival in verdict.challengers)
        assert verdict.decision == (
            "switch" if any(rival.p < 0.05 and rival.gain > 0 for rival in verdict.challengers) else "stay"
        )
    assert called / 400 <= 0.05 + 2.6 * (0.05 * 0.95 / 400) ** 0.5


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 40), st.integers(0, 40))
def test_swapped_routes_give_the_mirrored_result(only_cached: int, only_rival: int) -> None:
    ours, theirs = _against(only_cached, only_rival, n=120, cached=60)
    forward = reach_verdict(comparison(outcome(COLD, right=ours), outcome(FINETUNE, right=theirs)))
    back = reach_verdict(comparison(outcome(COLD, right=theirs), outcome(FINETUNE, right=ours)))
    (first,), (second,) = forward.challengers, back.challengers
    assert (first.gain, first.p) == (pytest.approx(-second.gain), pytest.approx(second.p))
    assert (first.low, first.high) == (pytest.approx(-second.high), pytest.approx(-second.low))
    assert {forward.decision, back.decision} == ({"stay", "switch"} if first.p < 0.05 else {"stay"})


@pytest.mark.parametrize(
    ("repeats", "begins"), [(1, "In one run of each route, the cached head "), (3, "The cached head ")]
)
def test_the_headline_of_one_run_speaks_of_two_models_not_of_two_ways(repeats: int, begins: str) -> None:
    ours, theirs = _against(30, 0)
    run = comparison(
        outcome(COLD, right=ours * repeats, wall_s=[13.0] * repeats),
        outcome(WARM, right=ours * repeats, wall_s=[3.0] * repeats),
        outcome(SCRATCH, right=theirs * repeats, wall_s=[540.0] * repeats),
    )
    verdict = reach_verdict(run)
    assert (verdict.text.startswith(begins), verdict.repeats) == (True, repeats)
    assert any("another seed gives other models" in note for note in verdict.notes) == (repeats == 1)
