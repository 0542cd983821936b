from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from caches import SPEC
from featcache.core.model_card import ModelCard
from featcache.errors import DataLayoutError, MissingExtraError
from featcache.models.prediction import Prediction
from featcache.models.serving import app as serving
from featcache.models.serving import page, server
from featcache.models.serving.app import ServerInfo
from featcache.models.serving.panels.base import refused
from featcache.models.serving.panels.image import ImagePanel
from featcache.models.serving.panels.text import TextPanel
from featcache.models.serving.server import PORTS
from featcache.models.serving.spread import spread

PANEL = object.__new__(ImagePanel)
METRICS = {"n": 80, "accuracy": 0.95, "accuracy_low": 0.8777, "accuracy_high": 0.9804}


def _card(**changes: Any) -> ModelCard:
    fields: dict[str, Any] = {"kind": "head", "file": "head.safetensors", "head": "linear", "classes": ("ants", "bees")}
    fields |= {"spec": SPEC, "weights": "none", "layer": "penultimate", "metrics": METRICS}
    return ModelCard(**{**fields, **changes})


def _bars(*probabilities: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"label": label, "confidence": value} for label, value in probabilities]


@pytest.mark.parametrize(
    ("prediction", "label", "bars"),
    [
        (Prediction("", "bees", (("bees", 0.75), ("ants", 0.25))), "bees", _bars(("bees", 0.75), ("ants", 0.25))),
        (Prediction("", "bees", (("bees", None),)), "bees", None),
        (Prediction("", "a|b", (("a|b", None),)), "a|b", None),
        (
            Prediction("", "queen|wings", (("wings", 0.9), ("queen", 0.6)), several=True),
            "queen, wings",
            _bars(("wings", 0.9), ("queen", 0.6)),
        ),
        (Prediction("", "", (("wings", 0.25),), several=True), "none", _bars(("wings", 0.25))),
    ],
    ids=["classes", "no probabilities", "a class with a bar in its name", "several labels", "no label"],
)
def test_what_the_page_shows_of_a_prediction(prediction: Prediction, label: str, bars: Any) -> None:
    assert page.format_answer(prediction) == {"label": label, "confidences": bars}


def test_what_is_odd_about_a_picture_is_said() -> None:
    prediction = Prediction("", "bees", (("bees", None),), remark="nearly black; first of several pages")
    assert page.format_answer(prediction)["remark"] == prediction.remark
    assert page.format_remark(str(prediction.remark), _card()) == (
        "This image is nearly black: the model takes 8 bits, or the upper 8 of 16; This image has several pages; "
        "the first is used."
    )


def test_the_head_of_the_page_says_what_the_model_is() -> None:
    assert page.format_description(_card()) == (
        "<h1>linear on toy</h1><p>2 classes: ants, bees.</p>"
        "<p>Correct on 95.0 % of 80 val images (95 % interval 87.8 to 98.0 %).</p>"
    )
    assert page.format_description(_card(multilabel=True)).endswith(
        "<p>2 labels: ants, bees.</p>"
        "<p>All labels correct on 95.0 % of 80 val images (95 % interval 87.8 to 98.0 %).</p>"
    )
    assert page.format_description(_card(kind="network", metrics={})) == (
        "<h1>toy, fine-tuned</h1><p>2 classes: ants, bees.</p>"
    )
    many = page.format_description(_card(classes=tuple(f"c{number}" for number in range(25)), metrics={}))
    assert many.endswith("c18, c19, 5 more.</p>")


def test_names_of_classes_are_no_html() -> None:
    text = page.format_description(_card(classes=("<script>alert(1)</script>", "bees")))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, bees" in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("count", "most", "chosen"), [(0, 4, []), (3, 4, [0, 1, 2]), (8, 4, [0, 2, 4, 6]), (10, 4, [0, 2, 5, 7])]
)
def test_examples_are_spread(count: int, most: int, chosen: list[int]) -> None:
    paths = [Path(str(number)) for number in range(count)]
    assert spread(paths, most) == [Path(str(number)) for number in chosen]


@pytest.mark.parametrize(
    ("host", "url", "has_note"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/", False),
        ("localhost", "http://localhost:80/", False),
        ("::1", "http://[::1]:80/", False),
        ("0.0.0.0", "http://127.0.0.1:80/", True),
        ("::", "http://[::1]:80/", True),
        ("192.168.1.7", "http://192.168.1.7:80/", True),
        ("photos.example", "http://photos.example:80/", True),
    ],
)
def test_an_address_that_others_reach_is_said_aloud(host: str, url: str, has_note: bool) -> None:
    note = (
        f"{host} is not a loopback address: everyone who reaches port 80 of this machine can use the page. "
        "There is no password."
    )
    assert server.page_address(host, 80) == (url, note if has_note else None)


def test_the_page_says_how_it_is_called() -> None:
    info = ServerInfo("http://127.0.0.1:7860/", None, PANEL.api("http://127.0.0.1:7860/"))
    assert str(info) == "http://127.0.0.1:7860/  (Ctrl-C ends it)"
    assert info.to_dict() == {
        "url": "http://127.0.0.1:7860/",
        "upload": "http://127.0.0.1:7860/gradio_api/upload",
        "predict": "http://127.0.0.1:7860/gradio_api/call/predict",
        "python": 'gradio_client.Client("http://127.0.0.1:7860/")'
        '.predict(gradio_client.handle_file("photo.jpg"), api_name="/predict")',
    }


def test_a_page_of_texts_says_how_it_is_called() -> None:
    assert object.__new__(TextPanel).api("http://127.0.0.1:7860/") == {
        "python": 'gradio_client.Client("http://127.0.0.1:7860/").predict("a text", api_name="/predict")'
    }


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with server.listen("127.0.0.1", 0) as taken, server.listen("127.0.0.1", 0) as other:
        first, second = taken.getsockname()[1], other.getsockname()[1]
        with pytest.raises(OSError, match="cannot be used") as error, server.listen("127.0.0.1", first):
            pass
        assert (error.value.errno, error.value.strerror) == (
            errno.EADDRINUSE,
            f"port {first} of 127.0.0.1 cannot be used: {os.strerror(errno.EADDRINUSE)}. Give another with --port.",
        )
        other.close()
        monkeypatch.setattr(server, "PORTS", [first, second])
        with server.listen("127.0.0.1", None) as result:
            assert result.getsockname()[1] == second
            with pytest.raises(OSError, match="Give a port with --port, or another --host"):
                server.listen("127.0.0.1", None).__enter__()


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(
        OSError, match=r"^\[Errno \d+\] port 7860 of 192\.0\.2\.1 cannot be used: .* or another --host\.$"
    ):
        server.listen("192.0.2.1", None).__enter__()  # an address for documents
    assert PORTS[0] == 7860


def test_what_the_shell_sets_for_gradio_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "mine")
    before = dict(os.environ)
    with serving._environment("ours"):
        result = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    assert result == {"GRADIO_TEMP_DIR": "ours", "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
    assert dict(os.environ) == before


def test_without_gradio_the_message_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError) as error:
        serving.serve(None)  # type: ignore[arg-type]
    assert str(error.value) == 'this needs gradio, which is not installed: pip install -e ".[serve]" in the clone'


FOREIGN = (403, "this server answers only pages of this machine; start it with --host for others")
FETCHES = (403, "this server does not fetch URLs")
LARGE = (413, "more than the 1,000 bytes of --max-upload")


@pytest.mark.parametrize(
    ("path", "headers", "refusal"),
    [
        ("/", {"host": "127.0.0.1:7860"}, None),
        ("/", {"host": "localhost:7860", "origin": "http://localhost:7860"}, None),
        ("/", {"host": "[::1]:7860", "origin": "http://[::1]:7860"}, None),
        ("/", {}, FOREIGN),
        ("/", {"host": "evil.example:7860"}, FOREIGN),  # a name that leads to 127.0.0.1
        ("/", {"host": "127.0.0.1.evil.example"}, FOREIGN),
        ("/", {"host": "[bad"}, FOREIGN),
        ("/", {"host": "127.0.0.1", "origin": "https://evil.example"}, FOREIGN),
        ("/", {"host": "127.0.0.1", "origin": "null"}, FOREIGN),
        ("/gradio_api/file=https://evil.example/a.png", {"host": "127.0.0.1"}, FETCHES),
        ("/", {"host": "127.0.0.1", "content-length": "11000"}, None),
        ("/", {"host": "127.0.0.1", "content-length": "11001"}, LARGE),
    ],
)
def test_the_gate_of_a_loopback_address(path: str, headers: dict[str, str], refusal: tuple[int, str] | None) -> None:
    assert server.RequestGuard(None, max_upload=1_000, loopback=True)._refusal(path, headers) == refusal


def test_the_gate_of_any_other_address_leaves_names_alone() -> None:
    guard = server.RequestGuard(None, max_upload=1_000, loopback=False)
    assert guard._refusal("/", {"host": "photos.example", "origin": "https://other.example"}) is None
    assert guard._refusal("/file=http://x", {"host": "photos.example"}) == FETCHES


def test_the_gate_lets_requests_for_the_proxy_s_host_through() -> None:
    guard = server.RequestGuard(None, max_upload=1_000, loopback=True, public="example.org")
    assert guard._refusal("/", {"host": "example.org", "origin": "https://example.org"}) is None
    assert guard._refusal("/", {"host": "127.0.0.1:7860", "origin": "https://example.org"}) is None
    assert guard._refusal("/", {"host": "example.com"}) is not None
    assert guard._refusal("/", {"host": "127.0.0.1", "origin": "https://example.com"}) is not None
    assert serving._public_host("https://example.org/ants") == "example.org"
    assert serving._public_host("/ants") is serving._public_host("") is None
    with pytest.raises(DataLayoutError, match="give a path such as /ants, or its URL"):
        serving._public_host("ants")


def test_a_body_without_a_length_is_counted() -> None:
    exceptions = pytest.importorskip("starlette.exceptions", reason="gradio is not installed")
    chunks = [{"type": "http.request", "body": b"x" * 6_000, "more_body": True}] * 2
    read: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in chunks:
            read.append(len((await receive())["body"]))

    async def receive() -> Any:
        return chunks[len(read)]

    guard = server.RequestGuard(app, max_upload=1_000, loopback=False)
    with pytest.raises(exceptions.HTTPException, match="more than the 1,000 bytes of --max-upload"):
        asyncio.run(guard({"type": "http", "path": "/", "headers": []}, receive, None))
    assert read == [6_000]


def test_a_listener_speaks_the_hosts_language() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with server.listen("::1", 0) as listener:
            assert listener.family == socket.AF_INET6
    except OSError:
        pytest.skip("no IPv6")


def test_a_reason_is_no_html() -> None:
    class Gradio:
        @staticmethod
        def Error(text: str, print_exception: bool) -> str:  # noqa: N802
            assert not print_exception
            return text

    assert refused(Gradio, "image", "odd <b>tag</b>") == "This image cannot be read: odd &lt;b&gt;tag&lt;/b&gt;."
