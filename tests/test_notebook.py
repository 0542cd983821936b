"""Results in a notebook, pictures as figures, the version."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import featcache
from commands import toy_cache, write_folder
from featcache.notebook import NotebookResult


class Answer(NotebookResult):
    def __str__(self) -> str:
        return "ants < bees\n" + 20 * "  and so on\n"


def test_a_result_is_its_text_in_a_notebook_and_the_beginning_of_it_at_the_prompt() -> None:
    answer = Answer()
    assert answer._repr_html_().startswith("<pre>ants &lt; bees\n  and so on\n")
    assert repr(answer) == "<Answer: ants < bees" + 8 * " and so on" + " and s...>"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    toy_cache(write_folder(folder / "data"), folder / "cache.h5")
    featcache.fit_head(folder / "cache.h5", folder / "head", head="sgd", parameters={"epochs": 2})
    return folder


def test_results_of_the_library_are_short(work: Path) -> None:
    fit = featcache.fit_head(work / "cache.h5")
    verified = featcache.verify(work / "cache.h5")
    for result in (fit, verified):
        assert repr(result).startswith(f"<{type(result).__name__}: ")
        assert len(repr(result)) < 130
        assert "\n" not in repr(result)
        assert result._repr_html_() == f"<pre>{result!s}</pre>"
    assert "head linear, val: accuracy 1.0000" in str(fit).replace("\n", " ")


def test_the_pictures_of_show_are_figures(work: Path) -> None:
    figures = [
        featcache.plot_views(work / "cache.h5", work / "data", images=2),
        featcache.plot_predictions(work / "head", work / "data"),
        featcache.plot_confusion(work / "head"),
        featcache.plot_reliability(work / "head"),
        featcache.plot_history(work / "head"),
        featcache.plot_map(work / "cache.h5", split="train", method="pca"),
    ]
    assert all(isinstance(figure, Figure) and figure.axes for figure in figures)
    assert featcache.plot_confusion(work / "head").get_facecolor()[0] > 0.9
    dark = featcache.plot_confusion(work / "head", dark=True)
    assert max(dark.get_facecolor()[:3]) < 0.1
    dark.savefig(work / "dark.png")  # as one does in a notebook, outside of our style
    assert (work / "dark.png").stat().st_size > 1000


def test_the_version_is_that_of_the_installation() -> None:
    assert featcache.__version__ == importlib.metadata.version("featcache")
