"""`--require`: the exit status tells CI whether a figure is reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caches import clouds
from commands import done, featcache_cli, refused
from featcache.cache.feature_cache import FeatureCache
from featcache.heads.fit_head import fit_head


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes that overlap, so that the figures are neither 0 nor 1; the test split differs from val."""
    path = tmp_path_factory.mktemp("noisy") / "c.h5"
    x, y = clouds(120, 3, apart=0.5)
    split = ["train"] * 60 + ["val"] * 40 + ["test"] * 20
    FeatureCache.from_arrays(x[:, 0], [f"class{label}" for label in y], path, split=split)
    return path


def test_a_figure_that_is_reached_changes_nothing(noisy: Path) -> None:
    accuracy = fit_head(noisy, head="ridge").accuracy.accuracy
    assert 0.34 < accuracy < 1
    line = ("fit-head", noisy, "--head", "ridge")
    required = ("--require", f"accuracy>={accuracy}", "--require", f"accuracy <= {accuracy}")
    (*usual, seconds), (*same, _) = done(*line).splitlines(), done(*line, *required).splitlines()
    assert same == usual
    assert "fit" in seconds


def test_a_figure_that_is_missed_is_named_and_the_head_saved(noisy: Path, tmp_path: Path) -> None:
    fit = fit_head(noisy, head="ridge")
    assert fit.report.test is not None
    accuracy, test = fit.accuracy.accuracy, fit.report.test.accuracy
    required = ("--require", "accuracy>=0.999", "--require", "macro_f1>=0", "--require", "test.accuracy<=0.1")
    said = refused("fit-head", noisy, "--head", "ridge", "-o", tmp_path / "head", *required, status=5)
    assert said == (
        f"required, but not reached: accuracy>=0.999: it is {accuracy:.6g}; test.accuracy<=0.1: it is {test:.6g}"
    )
    assert (tmp_path / "head/model.json").exists()
    result = featcache_cli("fit-head", noisy, "--head", "ridge", "--json", *required)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["accuracy"]) == (5, False, accuracy)
    assert found["error"] == {"type": "RequirementError", "message": said, "status": 5}


def test_a_figure_without_a_value_is_not_reached(noisy: Path) -> None:
    said = refused("fit-head", noisy, "--head", "svm", "--require", "mean_average_precision>=0", status=5)
    assert said.startswith("required, but not reached: mean_average_precision>=0: there is no mean_average_precision ")
    assert "; there are accuracy, accuracy_low, accuracy_high, balanced_accuracy, macro_f1, " in said


@pytest.mark.parametrize("text", ["accuracy", "accuracy>0.9", "accuracy>=high", "accuracy>=nan", ">=0.9"])
def test_what_is_no_requirement_is_refused_before_the_work(text: str) -> None:
    said = refused("fit-head", "none.h5", "--require", text, status=2)
    assert f"{text!r} is not FIGURE>=NUMBER or FIGURE<=NUMBER, such as accuracy>=0.9" in said


def test_an_unknown_figure_is_refused_with_those_that_exist() -> None:
    for command in (("fit-head", "none.h5"), ("evaluate", "head", "none")):
        said = refused(*command, "--require", "acuracy>=0.9", status=2)
        assert "there is no figure 'acuracy'; the figures are accuracy, accuracy_low, " in said
        assert "log_loss, calibration_error, mean_average_precision, micro_f1" in said


def test_evaluate_takes_it(cache: Path, data: Path, tmp_path: Path) -> None:
    done("fit-head", cache, "-o", tmp_path / "head", "--head", "ridge")
    with pytest.MonkeyPatch.context() as patch:
        import featcache

        fit = fit_head(cache, head="ridge")
        patch.setitem(vars(featcache), "evaluate", lambda **_: fit)
        assert done("evaluate", tmp_path / "head", data, "--require", "accuracy>=0.9")
        refused("evaluate", tmp_path / "head", data, "--require", "accuracy<=0.1", status=5)
