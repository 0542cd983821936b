from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featcache.analysis.benchmark.budget import BudgetUsage, SkippedRun
from featcache.analysis.benchmark.outcomes import COLD, WARM, FittedHead
from featcache.analysis.benchmark.routes import ROUTES
from featcache.analysis.benchmark.verdict import reach_verdict
from featcache.analysis.curves import Curve, Point
from featcache.reports.benchmark_report import (
    comparison_markdown,
    comparison_table,
    comparison_values,
    computation_table,
    remarks,
    write_report,
)
from outcomes import comparison, four_routes, outcome


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_line_a_route_with_its_costs() -> None:
    lines = comparison_table(four_routes()).markdown().splitlines()
    assert len({len(line) for line in lines}) == 1
    header, rule, *rows = map(_cells, lines)
    expected = """
        route                   | val accuracy | 95 % interval  | seconds | core-seconds | cold cache is | warm cache is | views/s | peak memory | on disk
        cached head, cold       | 0.9400       | 0.875 to 0.972 | 60.0    | 30.0         | -             | 15.0 x faster | 22      | 3.0 GB      | 5.0 MB
        cached head, warm       | 0.9400       | 0.875 to 0.972 | 4.0     | 30.0         | 15.0 x slower | -             | -       | 3.0 GB      | 5.0 MB
        frozen, live every epoch| 0.9300       | 0.863 to 0.966 | 120.0   | 30.0         | 2.0 x faster  | 30.0 x faster | 29      | 3.0 GB      | 6.0 MB
        fine-tune               | 0.9600       | 0.902 to 0.984 | 300.0   | 30.0         | 5.0 x faster  | 75.0 x faster | 11      | 4.0 GB      | 14.0 MB
    """  # noqa: E501
    assert all(set(cell) == {"-"} for cell in rule)
    assert [header, *rows] == [_cells(line.strip()) for line in expected.strip().splitlines()]


def test_repeats_show_median_and_spread_and_test_has_its_column() -> None:
    route = outcome(COLD, accuracy=[0.8, 0.9, 0.95], wall_s=[3.0, 1.0, 2.0], test_accuracy=[0.7, 0.6, 0.8], test_n=10)
    header, _, row = map(_cells, comparison_table(comparison(route)).markdown().splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["val accuracy"] == "0.9000 (0.8000 to 0.9500)"
    assert cells["test accuracy"] == "0.7000 (0.6000 to 0.8000)"
    assert cells["seconds"] == "2.0 (1.0 to 3.0)"


def test_without_a_cold_cache_nothing_is_compared_with_it() -> None:
    header, _, row = map(_cells, comparison_table(comparison(outcome(ROUTES["finetune"]))).markdown().splitlines())
    assert row[header.index("cold cache is")] == "-"
    assert not any("loses" in line or "Break-even" in line for line in remarks(comparison(outcome("fine-tune"))))


def test_unknown_memory_is_a_dash() -> None:
    header, _, row = map(
        _cells, comparison_table(comparison(outcome(COLD, peak_memory_bytes=None))).markdown().splitlines()
    )
    assert row[header.index("peak memory")] == "-"


def test_the_remarks_name_choices_by_val_and_leave_accuracy_to_the_verdict() -> None:
    """Fine-tuning is right on two images more, which the verdict calls noise: no remark calls it a loss."""
    assert remarks(four_routes())[1:] == [
        "The val accuracy of frozen, live every epoch; fine-tune is that of the best epoch on val and optimistic: the "
        "verdict uses their last epoch.",
    ]


def test_the_remarks_name_the_fitted_heads_and_their_layers() -> None:
    stages = ("penultimate", "blocks.0", "blocks.1", "blocks.2")
    heads = [FittedHead("lda", stages), FittedHead("ridge", ("penultimate",)), FittedHead("lda", stages)]
    frozen, start = outcome(ROUTES["frozen"]), [FittedHead("linear", ("penultimate",))]
    lpft = outcome(ROUTES["lpft"], heads=start)
    assert remarks(comparison(outcome(COLD, heads=heads), frozen, lpft))[1:4] == [
        "The cached head is lda on penultimate, blocks.0, blocks.1 and 1 more (2 repeats); ridge on penultimate (1 "
        "repeat).",
        "frozen, live every epoch, trains another head, a linear layer on penultimate by gradient descent: the two "
        "routes differ by more than the cache.",
        "LP-FT starts from linear on penultimate, as a network continues from a linear layer on penultimate alone.",
    ]
    assert remarks(comparison(outcome(COLD, heads=start), lpft))[1] == "The cached head is linear on penultimate."
    both = "\n".join(remarks(comparison(outcome(COLD, heads=start), lpft)))
    assert "LP-FT starts" not in both
    trained = outcome(COLD, heads=[FittedHead("sgd", ("penultimate",))])
    assert "another head" not in "\n".join(remarks(comparison(trained, frozen, head="sgd")))


CLEAN: dict[str, Any] = {"views": 0, "view_recipes": {"cached": None, "live": "tutorial"}}
"""Settings without views."""


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        (CLEAN, "the clean view alone"),
        ({"view_recipes": {"cached": "gentle", "live": "tutorial"}}, "the clean view and 4 by gentle"),
    ],
)
def test_other_views_of_the_cached_head_are_a_difference(settings: dict[str, Any], views: str) -> None:
    frozen = outcome(ROUTES["frozen"])
    sees = f"trains on a new view by tutorial in each epoch, the cached head on {views}"
    for head, differs in (
        ("sgd", ""),
        ("lda", "trains another head, a linear layer on penultimate by gradient descent, and "),
    ):
        cached = outcome(COLD, heads=[FittedHead(head, ("penultimate",))])
        line = f"{ROUTES['frozen']}, {differs}{sees}: the two routes differ by more than the cache."
        assert line in remarks(comparison(cached, frozen, head=head, **settings))
    text = comparison_markdown(comparison(outcome(COLD), frozen, **settings), "plot")
    assert f"cached: {views}, head linear; live routes: a new view by tutorial in each epoch, epochs 10" in text


def test_missing_curves_are_those_that_there_would_be() -> None:
    few = replace(four_routes(), no_curves="too few.")
    assert "There are no curves over views and labels: too few." in remarks(few)
    few.settings.update(CLEAN)
    assert "There is no curve over labels: too few." in remarks(few)


def test_every_loss_is_told() -> None:
    better = outcome(
        ROUTES["scratch"],
        accuracy=[0.92],
        wall_s=[7.5],
        size_bytes=2_000_000,
        peak_memory_bytes=1_000_000_000,
    )
    losses = [line for line in remarks(comparison(outcome(COLD), better)) if "loses" in line]
    assert losses == [
        "The cached head loses: from scratch is 12.5 s faster.",
        "The cached head loses: it needs 5.0 MB on disk, from scratch 2.0 MB.",
        "The cached head loses: it needs 3.0 GB of memory, from scratch 1.0 GB.",
    ]


def test_equals_and_the_warm_cache_are_no_losses() -> None:
    warm = outcome(WARM, wall_s=[1.0], peak_memory_bytes=1, size_bytes=1)
    lines = remarks(comparison(outcome(COLD), warm, outcome(ROUTES["finetune"])))
    assert not any("loses" in line for line in lines)


def test_unknown_memory_of_a_rival_is_no_loss() -> None:
    rival = outcome(ROUTES["finetune"], peak_memory_bytes=None)
    assert not any("of memory" in line for line in remarks(comparison(outcome(COLD), rival)))


def test_test_images_are_the_fair_column() -> None:
    rival = outcome(ROUTES["finetune"], test_accuracy=[0.9], test_n=50, epoch_s=1.0)
    assert any(line.endswith("and optimistic: compare the test column.") for line in remarks(comparison(rival)))


def test_nothing_is_optimistic_where_no_epoch_is_chosen() -> None:
    cold = outcome(COLD)
    assert not any("optimistic" in line for line in remarks(comparison(cold)))
    assert any(
        "accuracy of cached head, cold is that of the best epoch" in line
        for line in remarks(comparison(cold, head="sgd"))
    )


def test_the_budget_is_told_with_what_it_had_no_room_for() -> None:
    usage = BudgetUsage(600.0, 412.0, (SkippedRun("finetune", 0, 540.0, 240.0), SkippedRun("lpft", 0, None, 0.0)))
    assert remarks(replace(four_routes(), spending=usage))[2] == (
        "Budget: 10 minutes; spent: 6.9 minutes; skipped: fine-tune (takes about 9 minutes, 4 minutes left); LP-FT "
        "(needs the cached head)."
    )
    assert remarks(replace(four_routes(), spending=BudgetUsage(600.0, 60.0, ())))[2] == (
        "Budget: 10 minutes; spent: 60 seconds; skipped: nothing."
    )


def test_unreadable_images_are_told() -> None:
    lines = remarks(comparison(outcome(COLD, skipped=["a.png"]), outcome("fine-tune", skipped=["a.png", "b.png"])))
    assert "2 images cannot be read and are excluded: a.png, b.png." in lines
    assert "1 image cannot be read and is excluded: a.png." in remarks(comparison(outcome(COLD, skipped=["a.png"])))


def test_gpu_memory_has_its_column_where_there_is_a_gpu() -> None:
    rival = outcome(ROUTES["finetune"], peak_gpu_memory_bytes=7_000_000_000)
    header, _, *rows = map(_cells, comparison_table(comparison(outcome(COLD), rival)).markdown().splitlines())
    assert [row[header.index("GPU memory")] for row in rows] == ["0 B", "7.0 GB"]


def test_the_markdown_says_what_was_run() -> None:
    result = four_routes()
    text = comparison_markdown(result, "plot")
    paragraphs = text.split("\n\n")
    verdict = reach_verdict(result)
    assert paragraphs[:6] == [
        "# featcache benchmark",
        "## Verdict",
        verdict.text,
        "\n".join(f"- {note}" for note in verdict.notes),
        "## What was run",
        "hymenoptera: 244 train, 100 val images; resnet18 (weights: pretrained); cached: the clean view and 4 by "
        "gentle, head linear; live routes: a new view by gentle in each epoch, epochs 10, batch_size 32, lr 0.01. "
        "1 repeat from seed 0: medians (lowest to highest).",
    ]
    assert paragraphs[6] == comparison_table(result).markdown()
    assert paragraphs[7] == computation_table(result).markdown()
    assert paragraphs[8] == "\n".join(f"- {line}" for line in remarks(result))
    assert paragraphs[-1] == "Machine: Abacus, 2 cores, Linux. Versions: python 3.11.7, torch 2.11.0.\n"
    assert "![accuracy against seconds](plot.png)" in paragraphs


def test_precision_tf32_and_compilation_of_each_route_are_stated() -> None:
    rows = [
        outcome(COLD, device="GPU", precision="bf16", tf32=True, compiled=True),
        outcome(WARM),
        outcome(ROUTES["finetune"], device="GPU"),
        outcome(ROUTES["scratch"], device="GPU", precision="bf16", tf32=None, compiled=None),  # of an older version
    ]
    result = comparison(*rows)
    assert computation_table(result).rows == [
        ["cached head, cold", "GPU", "bf16", "yes", "yes"],
        ["cached head, warm", "-", "-", "-", "-"],
        ["fine-tune", "GPU", "fp32", "no", "no"],
        ["from scratch", "GPU", "bf16", "-", "-"],
    ]
    values = [(row["precision"], row["tf32"], row["compiled"]) for row in result.to_dict()["outcomes"]]
    assert values == [("bf16", True, True), (None, None, None), ("fp32", False, False), ("bf16", None, None)]


def test_different_precisions_of_the_networks_are_a_remark() -> None:
    remark = (
        "The networks compute in different precisions (bf16, fp32), so a part of the difference in seconds is not the "
        "cache's. --precision is that of the extraction, --train-precision that of live routes."
    )
    assert remark in remarks(comparison(outcome(COLD, precision="bf16"), outcome(WARM), outcome(ROUTES["finetune"])))
    assert not any("precision" in line for line in remarks(four_routes()))


def test_the_phases_stand_in_one_table() -> None:
    text = comparison_markdown(four_routes(), "plot")
    header, _, *rows = map(_cells, text.split("## Seconds by phase\n\n")[1].split("\n\n")[0].splitlines())
    assert header == ["route", "fit", "forward", "imports", "train"]
    assert rows[:2] == [
        ["cached head, cold", "-", "40.2", "5.0", "-"],
        ["cached head, warm", "0.5", "-", "1.5", "-"],
    ]


def test_the_table_of_a_terminal_is_narrow() -> None:
    assert str(four_routes()).splitlines() == [
        "route                        val   95 % interval  seconds",
        "cached head, cold         0.9400  0.875 to 0.972     60.0",
        "cached head, warm         0.9400  0.875 to 0.972      4.0",
        "frozen, live every epoch  0.9300  0.863 to 0.966    120.0",
        "fine-tune                 0.9600  0.902 to 0.984    300.0",
    ]
    fields = {"accuracy": [0.9, 1.0, 0.8], "wall_s": [1.0, 12345.6, 3.0], "test_accuracy": [0.5], "test_n": 9}
    text = str(comparison(outcome(ROUTES["frozen"], **fields), outcome(COLD), repeats=3))
    assert text.splitlines()[0] == "route                        val   95 % interval    test  seconds"
    assert text.splitlines()[1] == "frozen, live every epoch  0.9000  0.826 to 0.945  0.5000      3.0"
    assert text.splitlines()[3] == "Medians of 3 repeats."
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ["report", "ants"])
def test_the_report_is_three_files(name: str, tmp_path: Path) -> None:
    result = four_routes()
    text = write_report(result, tmp_path, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.md", f"{name}.png"]
    assert text.endswith(f"{name}.md, {name}.json and {name}.png are in {tmp_path}")
    assert text.startswith(f"{result}\n\n- Seconds run")
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == comparison_markdown(result, name)
    assert json.loads((tmp_path / f"{name}.json").read_text()) == json.loads(json.dumps(comparison_values(result)))


def test_a_curve_is_a_table_and_a_picture(tmp_path: Path) -> None:
    points = (
        Point(0.1, 24, 4, (0.8, 0.9, 0.85), 0.123, (0.77, 0.908)),
        Point(1.0, 244, 4, (0.95,), 1.5, (0.889, 0.978)),
    )
    result = replace(four_routes(), curves=[Curve("labels", "ridge", points, 100)])
    write_report(result, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    section = text.split("## Effect of more labels (ridge head, the same cache)\n\n")[1].split("\n\n")
    header, _, *rows = map(_cells, section[0].splitlines())
    assert header == ["labels", "samples", "views", "val accuracy", "95 % interval", "seconds to tune and fit"]
    assert rows == [
        ["10%", "24", "4", "0.8500 (0.8000 to 0.9000)", "0.770 to 0.908", "0.12"],
        ["100%", "244", "4", "0.9500", "0.889 to 0.978", "1.50"],
    ]
    assert section[1] == "![accuracy and seconds against labels](report-labels.png)"
    assert (tmp_path / "report-labels.png").stat().st_size > 0
    assert Curve.from_dict(json.loads((tmp_path / "report.json").read_text())["curves"][0]) == result.curves[0]
