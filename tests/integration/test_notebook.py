"""Results in a notebook, pictures as figures, the version."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

import featcache
from commands import toy_cache, write_folder
from featcache._utils.progress_bar import as_callback
from featcache._utils.results import NotebookResult
from featcache.analysis.doctor.findings import Check, DoctorReport, Issue, IssueExample
from featcache.models.prediction import Prediction, Predictions
from toys import toy_backbone


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
        assert f"<pre>{escape(str(result))}</pre>" in result._repr_html_()
    assert f"head {fit.name}, val: accuracy 1.0000" in str(fit).replace("\n", " ")


class Cells(HTMLParser):
    """The rows of the tables of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self._in_cell = tag in ("th", "td")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_a_fit_is_a_table_of_its_heads(work: Path) -> None:
    fit = featcache.fit_head(work / "cache.h5")
    assert fit.selection is not None
    header, *rows = Cells(fit._repr_html_()).rows
    assert header == ["head", "accuracy", "95 % interval", "log-loss", "seconds"]
    assert [row[0].split()[0] for row in rows] == [one.head for one in fit.selection.candidates]
    assert [row[1] for row in rows] == [f"{one.accuracy.accuracy:.4f}" for one in fit.selection.candidates]


def test_a_report_of_doctor_is_a_table_of_its_issues(work: Path) -> None:
    example = IssueExample("a<b>.jpg", "train", "ants", "bees")
    issue = Issue("wrong labels", "warning", "1 of 2 labels < 3", "look & see", (example,))
    report = DoctorReport(Path("cache.h5"), "penultimate", 2, (Check("labels", "", (issue,)), Check("images", "ok")), 1)
    html = report._repr_html_()
    assert Cells(html).rows == [
        ["severity", "issue", "what", "what to do"],
        ["warning", "wrong labels", "1 of 2 labels < 3", "look & see"],
    ]
    assert "<p>no problem found: images</p>" in html
    assert "a&lt;b&gt;.jpg: ants, probably bees" in html
    assert Cells(replace(report, checks=report.checks[1:])._repr_html_()).rows == []


def test_predictions_are_a_list_that_is_a_table() -> None:
    sure = Prediction("a<b>.jpg", "ants", (("ants", 0.75), ("bees", 0.25)))
    broken = Prediction("b.jpg", None, (), "not an image")
    several = Prediction("c.jpg", "ants|bees", (("ants", 0.9), ("bees", 0.8)), several=True)
    assert Predictions([sure]) == [sure]
    assert Cells(Predictions([sure, broken, several])._repr_html_()).rows == [
        ["path", "label", "probability", "other classes", "remark"],
        ["a<b>.jpg", "ants", "0.7500", "bees 0.2500", ""],
        ["b.jpg", "", "", "", "not an image"],
        ["c.jpg", "ants|bees", "", "ants 0.9000, bees 0.8000", ""],
    ]
    html = Predictions([sure] * 1234)._repr_html_()
    assert len(Cells(html).rows) == 51
    assert "<p>and 1,184 more</p>" in html


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
    for figure in figures:
        shown, metadata = DisplayFormatter().format(figure)  # as a notebook does, without %matplotlib inline
        assert shown["image/png"].startswith(b"\x89PNG")
        assert metadata == {}
    assert featcache.plot_confusion(work / "head").get_facecolor()[0] > 0.9
    dark = featcache.plot_confusion(work / "head", dark=True)
    assert max(dark.get_facecolor()[:3]) < 0.1
    dark.savefig(work / "dark.png")  # as one does in a notebook, outside of our style
    assert (work / "dark.png").stat().st_size > 1000


def test_the_version_is_that_of_the_installation() -> None:
    assert featcache.__version__ == importlib.metadata.version("featcache")


def test_a_classifier_says_what_it_is(work: Path) -> None:
    classifier = featcache.Classifier.load(work / "head", backbone=toy_backbone())
    assert str(classifier).splitlines() == [
        f"head sgd on features (penultimate) of toy, images of {classifier.card.spec.view.image_size} px",
        "2 classes: ants, bees",
    ]
    assert repr(classifier).startswith("<Classifier: head sgd on features (penultimate) of ")


def test_results_are_all_shown_alike() -> None:
    shown = [getattr(featcache, name) for name in featcache.__all__]
    ways = [one for one in shown if isinstance(one, type) and "__str__" in vars(one)]
    others = {one.__name__ for one in ways if not issubclass(one, NotebookResult)}
    assert others == {"FeatcacheError"}


def test_progress_true_draws_a_bar_for_each_step(work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    featcache.extract(work / "data", tmp_path / "cache.h5", backbone=toy_backbone(), views=1, progress=True)
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    for step in ("hash", "extract"):
        assert any(line.startswith(f"{step}: 100%") for line in lines)
    featcache.verify(tmp_path / "cache.h5", progress=True)
    assert "verify: 100%" in capfd.readouterr().err
    featcache.verify(tmp_path / "cache.h5", progress=False)
    assert capfd.readouterr().err == ""


def test_progress_true_works_wherever_there_is_progress() -> None:
    taking = {}
    for name in featcache.__all__:
        one = getattr(featcache, name)
        if inspect.isfunction(one) and "progress" in inspect.signature(one).parameters:
            taking[name] = inspect.signature(one).parameters["progress"].annotation
    assert len(taking) >= 15
    assert {name: kind for name, kind in taking.items() if kind != "ProgressOption"} == {}


def test_a_notebook_without_ipywidgets_has_a_bar_of_text_and_no_warning() -> None:
    code = """
import sys, types, warnings
warnings.simplefilter("error")
import IPython.core.interactiveshell as shell
shell.InteractiveShell.instance()
sys.modules["ipykernel.zmqshell"] = types.ModuleType("ipykernel.zmqshell")  # what tqdm looks for
sys.modules["ipywidgets"] = None
from featcache._utils.progress_bar import as_callback
report = as_callback(True)
report("extract", 0, 2)
report("extract", 2, 2)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "extract: 100%" in ran.stderr
    assert "ipywidgets" not in ran.stderr


def test_a_step_of_unknown_length_is_a_clock(capfd: pytest.CaptureFixture[str]) -> None:
    report = as_callback(True)
    assert report is not None
    report("load", 0, 0)
    report("extract", 0, 2)
    report("extract", 2, 2)
    shown = capfd.readouterr().err.replace("\r", "\n")
    assert "load: 0" in shown
    assert "extract: 100%" in shown
