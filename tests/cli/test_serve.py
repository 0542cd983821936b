"""`featcache serve` as a process of its own: its API, and its page in a real browser."""

from __future__ import annotations

import http.server
import importlib.util
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest
from PIL import Image

from browser import asked, chromium, missing
from commands import ROOT, done, refused
from featcache.models.classifier import Classifier
from served import Served, file_data

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")


def _status(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def head(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the embedded network: its probabilities tell pictures apart, as a random one's do not."""
    folder = tmp_path_factory.mktemp("model")
    done("extract", data, "-o", folder / "cache.h5", "--views", 0, "--image-size", 64, "--precision", "fp32")
    done("fit-head", folder / "cache.h5", "-o", folder / "head", "--head", "linear")
    return folder / "head"


@pytest.fixture(scope="module")
def classifier(head: Path) -> Classifier:
    return Classifier.load(head)


@pytest.fixture(scope="module")
def served(head: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = ("--max-upload", 1, "--max-pixels", 10_000)
    server = Served(
        tmp_path_factory.mktemp("served"), head, "--examples", data / "val", "--port", 0, "--top", 2, *limits
    )
    yield server
    server.kill()


def _jpeg(mode: str = "RGB", orientation: int = 1) -> bytes:
    """Bright at the left, redder at the top."""
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[..., :] = np.linspace(255, 0, 90, dtype=np.uint8)[None, :, None]
    pixels[:30, :, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


def _png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


RAMP = np.linspace(0, 1, 60)[:, None] * np.ones(40)
CLEAR = (np.stack([RAMP, 1 - RAMP, RAMP, RAMP], axis=2) * 255).astype(np.uint8)
PICTURES = {
    "a JPEG on its side": _jpeg(orientation=6),
    "CMYK": _jpeg("CMYK"),
    "16 bits": _png((RAMP * 65535).astype(np.uint16)),
    "transparency": _png(CLEAR),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_api_answers_what_the_classifier_says_of_the_same_file(
    name: str, served: Served, classifier: Classifier, tmp_path: Path
) -> None:
    path = tmp_path / "picture"
    path.write_bytes(PICTURES[name])
    (expected,) = classifier.predict([path], top=2)
    event, (found,) = served.predict(PICTURES[name])
    assert (event, found["label"]) == ("complete", expected.label)
    shares = {bar["label"]: bar["confidence"] for bar in found["confidences"]}
    assert list(shares) == [label for label, _ in expected.top]
    assert shares == pytest.approx(dict(expected.top), abs=1e-6)


TWELVE_BITS = _png((RAMP * 4095).astype(np.uint16))


def test_the_api_says_what_is_odd_about_a_picture(served: Served) -> None:
    event, (found,) = served.predict(TWELVE_BITS)
    assert (event, found["remark"]) == ("complete", "nearly black")
    assert "remark" not in served.predict(PICTURES["16 bits"])[1][0]


def test_pictures_on_their_side_are_other_pictures(served: Served) -> None:
    """Or the test above could not fail."""
    upright, turned = (served.predict(_jpeg(orientation=number))[1][0]["confidences"] for number in (1, 6))
    assert abs(upright[0]["confidence"] - turned[0]["confidence"]) > 1e-4


BAD = {
    "corrupt": (b"\xff\xd8\xff nonsense", "not an image that Pillow can identify"),
    "empty": (b"", "the file is empty (0 bytes)"),
    "text": (b"import this", "not an image that Pillow can identify"),
    "half": (PICTURES["transparency"][:-40], None),
    "SVG": (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "an SVG drawing, which Pillow does not read: export it as PNG",
    ),
    "many pixels": (_png(np.zeros((101, 100), np.uint8)), "100 x 101 pixels are more than the 10,000 of --max-pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_api_says_why_a_picture_cannot_be_read(
    name: str, served: Served, classifier: Classifier, tmp_path: Path
) -> None:
    content, reason = BAD[name]
    (tmp_path / "picture").write_bytes(content)
    reason = reason or classifier.predict([tmp_path / "picture"])[0].error
    event, found = served.predict(content)
    assert (event, found["error"]) == ("error", f"This image cannot be read: {reason}.")


def test_the_python_client_calls_it_as_the_page_says(served: Served, data: Path) -> None:
    code = f"""
import gradio_client, json
print(json.dumps({served.page["python"].replace("photo.jpg", str(data / "val/bees/000.png"))}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == served.predict((data / "val/bees/000.png").read_bytes())[1][0]


@pytest.mark.parametrize("more", [1, 100_000])
def test_a_large_upload_is_refused_with_its_reason(more: int, served: Served) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        served.upload(b"x" * ((1 << 20) + more))
    text = "File size exceeded maximum allowed size of 1048576 bytes."
    assert error.value.code == 413
    assert error.value.read().decode() == (text if more == 1 else "more than the 1,048,576 bytes of --max-upload")


def test_nothing_but_uploads_is_read(served: Served, head: Path, data: Path) -> None:
    refusal = ("error", "This image cannot be read: it was not uploaded.")
    for place in (data / "val/ants/000.png", head / "model.json", "http://127.0.0.1:9/a.png", "../../etc/hostname"):
        event, found = served.call(file_data(str(place)))
        assert (event, found["error"]) == refusal
        event, found = served.call({**file_data(str(place)), "is_stream": True})
        assert (event, found["error"]) == refusal
    event, found = served.call(file_data("/proc/\0"))
    assert (event, found["error"]) == refusal
    event, found = served.call(file_data(None, url="data:image/png;base64,AAAA"))
    assert found["error"] == (
        "This image cannot be read: send it to /gradio_api/upload first, and then send the path in the response."
    )


def test_the_folders_of_examples_stay_closed(served: Served, data: Path, head: Path) -> None:
    config = json.loads(_status(f"{served.url}config")[1])
    (shown,) = [part["props"]["samples"] for part in config["components"] if part["type"] == "dataset"]
    assert len(shown) == 5
    first = shown[0][0]["path"]
    assert Path(first).read_bytes() == (data / "val/ants/000.png").read_bytes()
    assert _status(f"{served.url}gradio_api/file={first}")[0] == 200
    for place in (data / "val/ants/000.png", data / "train/ants/000.png", head / "model.json", ROOT / "README.md"):
        assert _status(f"{served.url}gradio_api/file={place}")[0] == 403


def test_a_page_on_the_web_does_not_reach_it(served: Served) -> None:
    refusal = (403, "this server answers only pages of this machine; start it with --host for others")
    assert _status(served.url, Origin="https://evil.example") == refusal
    assert _status(served.url, Host=f"evil.example:{urlsplit(served.url).port}") == refusal
    assert _status(f"{served.url}gradio_api/file=http://127.0.0.1:9/a.png")[0] == 403
    assert _status(served.url, Origin=served.url.rstrip("/"))[0] == 200


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    with chromium() as driver:
        yield driver


@pytest.fixture
def until(browser: Any, served: Served) -> Callable[[Callable[[Any], Any]], Any]:
    """Wait for a condition on the freshly loaded page."""
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(condition: Callable[[Any], Any]) -> Any:
        return WebDriverWait(browser, 60, poll_frequency=0.1).until(condition)

    browser.get(served.url)
    wait(lambda page: page.find_elements("css selector", "#image input[type=file]"))
    return wait


def _choose(browser: Any, path: Path) -> None:
    browser.find_element("css selector", "#image input[type=file]").send_keys(str(path))


def _answer(browser: Any) -> list[str]:
    return str(browser.find_element("css selector", "#answer").text).splitlines()


def _shown(classifier: Classifier, path: Path) -> list[str]:
    """Heading and bars of the page."""
    (prediction,) = classifier.predict([path], top=2)
    bars = [(label, f"{100 * share:.0f}%") for label, share in prediction.top if share is not None]
    return ["Class", str(prediction.label), *(text for bar in bars for text in bar)]


def test_the_page_names_the_class_of_an_uploaded_picture(
    browser: Any, until: Any, served: Served, classifier: Classifier, data: Path
) -> None:
    picture = data / "val/bees/000.png"
    assert browser.find_element("css selector", "#about").text == (
        "linear on efficientnet_lite0\n2 classes: ants, bees.\n"
        "Correct on 100.0 % of 5 val images (95 % interval 56.6 to 100.0 %)."
    )
    _choose(browser, picture)
    until(lambda page: _answer(page)[1:2] == ["bees"])
    assert _answer(browser) == _shown(classifier, picture)


def test_the_page_says_what_is_odd_about_a_picture(browser: Any, until: Any, tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(TWELVE_BITS)
    _choose(browser, tmp_path / "deep.png")
    (said,) = until(lambda page: page.find_elements("css selector", ".toast-body"))
    told = "This image is nearly black: the model takes 8 bits, or the upper 8 of 16."
    until(lambda page: told in said.text)
    until(lambda page: _answer(page)[1:2] in (["ants"], ["bees"]))  # and is classified all the same


def test_the_page_says_why_a_picture_cannot_be_read_and_goes_on(
    browser: Any, until: Any, classifier: Classifier, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "corrupt.jpg").write_bytes(BAD["corrupt"][0])
    (tmp_path / "large.jpg").write_bytes(b"x" * (2 << 20))
    _choose(browser, tmp_path / "corrupt.jpg")
    (said,) = until(lambda page: page.find_elements("css selector", ".toast-body"))
    until(lambda page: "This image cannot be read: not an image that Pillow can identify." in said.text)
    assert "Traceback" not in browser.page_source
    browser.refresh()
    until(lambda page: page.find_elements("css selector", "#image input[type=file]"))
    _choose(browser, tmp_path / "large.jpg")
    until(
        lambda page: 'exceed the maximum allowed size of 1.0 Mb: "large.jpg"' in page.page_source.replace("&quot;", '"')
    )
    until(lambda page: page.find_elements("css selector", ".gallery-item"))[3].click()  # val/bees/000.png
    until(lambda page: _answer(page) == _shown(classifier, data / "val/bees/000.png"))


def test_a_picture_is_pasted(browser: Any, until: Any, served: Served, classifier: Classifier, data: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": served.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    copied = browser.execute_async_script(
        """
        const [bytes, done] = arguments;
        const picture = new Blob([new Uint8Array(bytes)], { type: "image/png" });
        navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]).then(() => done("copied"), done);
        """,
        list((data / "val/ants/000.png").read_bytes()),
    )
    assert copied == "copied"
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    until(lambda page: _answer(page) == _shown(classifier, data / "val/ants/000.png"))


def test_the_page_asks_nobody_else(browser: Any, until: Any, served: Served) -> None:
    """In all tests above, too."""
    addresses = [urlsplit(url) for url in asked(browser)]
    assert len(addresses) > 20
    assert {f"{url.scheme}://{url.netloc}/" for url in addresses if url.scheme not in ("data", "blob")} == {served.url}


def test_sigterm_ends_it_cleanly_below_an_open_page(served: Served) -> None:
    """The last test of this server."""
    uploads = list(served.temporary.glob("featcache-serve-*"))
    assert len(uploads) == 1
    assert served.stop(signal.SIGTERM) == 143
    assert list(served.temporary.glob("featcache-serve-*")) == []
    assert served.errors.splitlines()[-1] == "Stopped. No upload is kept."
    assert "Traceback" not in served.errors
    assert served.watched == ["watched.invalid"]


def test_uploads_are_deleted_and_another_host_is_said_aloud(head: Path, data: Path, tmp_path: Path) -> None:
    server = Served(tmp_path, head, "--host", "0.0.0.0", "--port", 0, "--examples", data / "val", sweep="1 1")
    try:
        port = urlsplit(server.url).port
        assert server.url == f"http://127.0.0.1:{port}/"
        assert " ".join(server.errors.split()).endswith(
            f"0.0.0.0 is not a loopback address: everyone who reaches port {port} of this machine can use the page. "
            "There is no password."
        )
        uploaded = server.upload(PICTURES["transparency"])
        assert Path(uploaded).exists()
        deadline = time.monotonic() + 60
        while Path(uploaded).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        event, found = server.call(file_data(uploaded))
        assert (event, found["error"]) == (
            "error",
            "This image cannot be read: it was deleted in the meantime; send it again.",
        )
        assert len(list(server.temporary.rglob("*.png"))) == 5  # the examples
        assert server.stop(signal.SIGINT) == 130
        assert "Traceback" not in server.errors
    finally:
        server.kill()


class _Proxy(http.server.BaseHTTPRequestHandler):
    """Passes what comes below /ants on to a server, without that prefix."""

    target = ""

    def _pass_on(self) -> None:
        if not self.path.startswith("/ants/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        names = ("Content-Type", "Host")
        headers = {name: self.headers[name] for name in names if self.headers[name]}
        request = urllib.request.Request(f"{self.target}{self.path.removeprefix('/ants/')}", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = _pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


def test_a_page_below_a_path_of_a_proxy_finds_its_parts_there(
    head: Path, classifier: Classifier, tmp_path: Path
) -> None:
    server = Served(tmp_path, head, "--port", 0, "--root-path", "/ants")
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (_Proxy,), {"target": server.url}))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        shown = f"http://127.0.0.1:{proxy.server_port}/ants/"
        status, page = _status(shown)
        assert status == 200
        (root,) = re.findall(r'"root":"([^"]+)"', page)
        assert root == shown.rstrip("/")
        scripts = re.findall(r'src="([^"]+[.]js)"', page)
        assert scripts
        assert {_status(urljoin(shown, script))[0] for script in scripts} == {200}
        places = {name: server.page[name].replace(server.url, shown) for name in ("upload", "predict")}
        server.page = {**server.page, **places}
        content = PICTURES["transparency"]
        (tmp_path / "picture").write_bytes(content)
        event, (found,) = server.predict(content)
        assert (event, found["label"]) == ("complete", classifier.predict([tmp_path / "picture"])[0].label)
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.kill()


@pytest.fixture
def sigterm() -> Iterator[None]:
    """What SIGTERM does, for the tests that come after."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_mistakes_are_told_without_a_traceback(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigterm: None
) -> None:
    assert refused("serve", tmp_path) == (
        f"{tmp_path} is not a saved model: it has no model.json. Give the folder that "
        "`featcache fit-head -o` or `featcache finetune -o` wrote."
    )
    assert refused("serve", head, "--examples", tmp_path) == (
        f"{tmp_path} names no image: no such file, or a folder or pattern without images."
    )
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert refused("serve", head) == 'this needs gradio, which is not installed: pip install -e ".[serve]" in the clone'
