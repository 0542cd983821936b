"""A real Chromium without a screen, and what it asked the network for."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NEEDED = ("chromium", "chromedriver")


def missing() -> str | None:
    """What there is too little of for a test with a browser, as a reason to skip."""
    programs = [name for name in NEEDED if shutil.which(name) is None]
    if importlib.util.find_spec("selenium") is None:
        programs.append("selenium")
    return f"not installed: {', '.join(programs)}" if programs else None


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A selenium driver; Debian's browser and driver, so that selenium fetches none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(switch)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def asked(driver: Any) -> list[str]:
    """The addresses of all that the pages loaded since the last call."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
