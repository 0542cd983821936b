"""`featcache serve CACHE --label` as a process of its own: by HTTP, and with the keyboard in a real browser."""

from __future__ import annotations

import csv
import importlib.util
import json
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import asked, chromium, missing
from commands import done, refused
from featcache import FeatureCache
from featcache.core.samples import format_labels
from featcache.extraction.extract import extract
from served import Served, post
from toys import random_image, toy_backbone

ODD = "<img src=x onerror=document.title='attacked'>.png"


def test_options_that_do_not_fit_are_refused(cache: Path, data: Path) -> None:
    assert "--label needs --data" in refused("serve", cache, "--label", status=2)
    assert "--top is for a page that classifies" in refused(
        "serve", cache, "--label", "--data", data, "--top", 3, status=2
    )
    assert "--class is for --label" in refused("serve", cache, "--class", "ants", status=2)
    assert "--data is for --label" in refused("serve", cache, "--data", data, status=2)
    assert "label the samples of a cache with --label --data" in refused("serve", cache, status=2)


needs_server = pytest.mark.skipif(importlib.util.find_spec("starlette") is None, reason="starlette is not installed")


@pytest.fixture
def unsorted(tmp_path: Path) -> Path:
    """Twelve photos without a label, one of which has a name that is HTML, and unsorted.h5 beside them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        random_image(number, tint=number % 2).save(folder / (f"{number:03d}.png" if number != 4 else ODD))
    extract(folder, tmp_path / "unsorted.h5", backbone=toy_backbone(), workers=1, views=0, dtype="float32")
    return folder


@pytest.fixture
def start(unsorted: Path) -> Iterator[Callable[[], Served]]:
    """Starts servers one after the other, and ends them all."""
    servers: list[Served] = []

    def start_server() -> Served:
        folder = unsorted.parent / f"server-{len(servers)}"
        arguments = ("--label", "--data", unsorted, "--class", "ants", "--class", "bees", "--port", 0)
        servers.append(Served(folder, unsorted.parent / "unsorted.h5", *arguments))
        return servers[-1]

    yield start_server
    for server in servers:
        if server.process.stdout and not server.process.stdout.closed:
            server.kill()


def labels_of(table: Path) -> dict[str, str]:
    with table.open(newline="") as file:
        return {Path(row["path"]).name: row["label"] for row in csv.DictReader(file) if row["label"]}


def cached_labels(path: Path) -> dict[str, str]:
    samples = FeatureCache.open(path).samples
    labels = format_labels(samples.labels, samples.classes)
    return {Path(name).name: label for name, label in zip(samples.ids, labels, strict=True) if label}


@needs_server
def test_a_killed_server_has_saved_each_label_and_ends_cleanly(start: Callable[[], Served], unsorted: Path) -> None:
    expected: dict[str, str] = {}
    for _ in range(2):
        server = start()
        with urllib.request.urlopen(f"{server.url}state") as answer:
            state = json.loads(answer.read())
        assert state["labeled"] == len(expected)
        one = state["queue"][0]
        body = {"cache": state["cache_id"], "row": one["row"], "label": "ants", "before": ""}
        post(f"{server.url}label", json.dumps(body).encode(), "application/json")
        expected[one["path"]] = "ants"
        server.kill()
        assert labels_of(unsorted.parent / "unsorted.labels.csv") == expected
    server = start()
    assert server.page["labeled"] == server.page["changes"] == 2
    assert server.page["table"].endswith("unsorted.labels.csv")
    assert server.stop(signal.SIGTERM) == 143
    assert server.errors.splitlines()[-1] == "Stopped. Each label is in the table."
    assert server.watched == ["watched.invalid"]


class Page:
    """The page in a browser, as a person uses it: keys, after the sample can be seen."""

    def __init__(self, driver: Any, url: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self._wait = WebDriverWait(driver, 120, poll_frequency=0.1)
        driver.get(url)

    def until(self, script: str) -> Any:
        return self._wait.until(lambda driver: driver.execute_script(f"return {script}"))

    def shown(self) -> str:
        """The path of the sample, as soon as it can be seen."""
        self.until("state && current && isShown && !isBusy")
        return self.text("path")

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()
        self.until("!isBusy")

    def text(self, name: str) -> str:
        return str(self.driver.find_element("id", name).text)


@needs_server
@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_person_labels_with_the_keyboard_across_a_kill(start: Callable[[], Served], unsorted: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    table, cache, expected = unsorted.parent / "unsorted.labels.csv", unsorted.parent / "unsorted.h5", dict[str, str]()
    server = start()
    with chromium() as driver:
        page = Page(driver, server.url)
        for key, name in (("1", "ants"), ("2", "bees"), ("1", "ants"), ("2", "bees")):
            expected[page.shown()] = name
            page.press(key)
            assert labels_of(table) == expected  # when the next sample is there, the label is saved
        skipped = page.shown()
        page.press(" ")
        new = page.shown()
        page.press(Keys.ENTER, "<b>wasps</b>", Keys.ENTER)
        page.until("state.labeled === 5")
        expected[new] = "<b>wasps</b>"
        assert labels_of(table) == expected
        assert page.text("count") == "5 of 12 labeled, 1 skipped"
        page.shown()
        page.press(Keys.BACKSPACE)
        assert page.shown() == new
        page.press("2")  # a correction
        expected[new] = "bees"
        assert page.shown() not in {*expected, skipped}
        assert labels_of(table) == expected
        page.until("!state.assessing && state.accuracy && state.accuracy.held_out === 5")
        assert "95 % interval" in page.text("figure").replace("\u00a0", " ")
        assert "Cross-validated on 5 labeled images" in page.text("basis")

        server.kill()
        server = start()
        page = Page(driver, server.url)
        page.shown()
        assert page.text("count") == "5 of 12 labeled, 1 skipped"
        while len(expected) < 11:
            path = page.shown()
            assert path not in {*expected, skipped}
            expected[path] = "ants"
            page.press("1")
        page.until("!current && !state.choosing")
        assert "1 were skipped" in page.text("message")
        driver.find_element("id", "again").click()
        assert page.shown() == skipped
        page.press("2")
        page.until("state.labeled === 12")
        expected[skipped] = "bees"
        assert labels_of(table) == expected
        assert page.text("table") == str(table)
        assert driver.title == "Label the images of unsorted.h5"  # names that are HTML changed nothing
        assert ODD in expected
        addresses = asked(driver)
        assert addresses
        assert all(url.startswith(("http://127.0.0.1:", "blob:", "data:", "chrome:")) for url in addresses)
    server.kill()
    assert "12 newly labeled" in done("update", cache, table, "--backbone", "toys:toy_backbone")
    assert cached_labels(cache) == expected
