"""Write results/serve.png: the page of `featcache serve` in a browser, with a handwritten digit.

    python benchmarks/screenshot.py

The script first makes the model: features of scikit-learn's digits from the embedded network, at 224 pixels, and a
linear head. This takes a few minutes on 2 cores. It needs the extra `serve`, selenium, and Debian's chromium and
chromium-driver. The image on the page is from val, so the head was not fitted on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from record import HERE, RESULTS
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from featcache import FeatureCache, extract, fit_head
from featcache.vision.demo_datasets import write_digits

WIDTH, HEIGHT = 900, 740
COLOURS = 128
WAIT_S = 120


def make_model(folder: Path) -> tuple[Path, list[Path]]:
    """Fit a head; return it with the first val image of each class."""
    data = write_digits(folder / "digits")
    extract(data, folder / "cache.h5", views=0)
    fit_head(folder / "cache.h5", folder / "head")
    samples = FeatureCache.open(folder / "cache.h5").samples
    rows = samples.rows("val")
    first = [rows[samples.labels[rows] == label][0] for label in range(len(samples.classes))]
    return folder / "head", [data / samples.ids[row] for row in first]


def photograph(url: str, picture: Path) -> bytes:
    """PNG bytes of the page after it shows the class of the image."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for switch in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(switch)
    driver: Any = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(url)
        wait = WebDriverWait(driver, WAIT_S)
        wait.until(lambda page: page.find_elements("css selector", "#picture input[type=file]"))[0].send_keys(
            str(picture)
        )
        wait.until(lambda page: "%" in page.find_element("css selector", "#answer").text)
        done = "return [...document.images].every((image) => image.complete) && !document.querySelector('.generating')"
        wait.until(lambda page: page.execute_script(done))
        return bytes(driver.get_screenshot_as_png())
    finally:
        driver.quit()


def main() -> None:
    """Make the model, serve it, take the screenshot, write it."""
    with tempfile.TemporaryDirectory() as folder_name:
        head, pictures = make_model(Path(folder_name))
        examples = [text for picture in pictures for text in ("--examples", str(picture))]
        line = [sys.executable, "-m", "featcache_cli.main", "serve", str(head), *examples, "--port", "0", "--json"]
        with subprocess.Popen(line, cwd=HERE.parent / "cli", stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            text = ""
            while not text.endswith("\n}\n"):
                text += server.stdout.readline() or sys.exit("the server ended")
            shot = photograph(json.loads(text)["url"], pictures[5])
            server.terminate()
    raw = Path(RESULTS / "serve.png")
    raw.write_bytes(shot)
    with Image.open(raw) as image:
        palette = image.convert("RGB").quantize(COLOURS)
    palette.save(raw, optimize=True)
    print(f"{raw}: {palette.width} x {palette.height} pixels, {raw.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
