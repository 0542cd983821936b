"""The page that labels samples, as an ASGI application: what it answers, and what it refuses."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featcache import FeatureCache
from featcache.analysis.labeling.session import LabelSession
from featcache.extraction.extract import extract
from featcache.reports.labeling.app import LabelPage, label_app
from toys import random_image, toy_backbone
from toytexts import toy_text_encoder

pytestmark = pytest.mark.skipif(importlib.util.find_spec("starlette") is None, reason="starlette is not installed")

ODD = "<img src=x onerror=alert(1)>.png"
HOST = "127.0.0.1:7860"


def client_of(session: LabelSession, loopback: bool = True) -> Any:
    from starlette.testclient import TestClient

    page = LabelPage(session, str(session.cache.path))
    return TestClient(label_app(page, loopback), base_url=f"http://{HOST}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos, one large and one with a name that is HTML, and cache.h5 beside their folder."""
    root = tmp_path_factory.mktemp("made")
    folder = root / "photos"
    folder.mkdir()
    for number in range(5):
        random_image(number).save(folder / f"{number}.png")
    random_image(5).save(folder / ODD)
    random_image(6, 2000, 1500).save(folder / "0.png")
    extract(folder, root / "cache.h5", backbone=toy_backbone(), workers=1, views=0)
    return root


@pytest.fixture
def session(made: Path, tmp_path: Path) -> LabelSession:
    """One of the photos is deleted afterwards, and one changes."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "photos"
    session = LabelSession(FeatureCache.open(tmp_path / "cache.h5"), folder, ["<b>bold</b>"])
    (folder / "1.png").unlink()
    random_image(7).save(folder / "2.png")
    return session


@pytest.fixture
def client(session: LabelSession) -> Iterator[Any]:
    with client_of(session) as opened:
        yield opened


def row_of(session: LabelSession, name: str) -> int:
    return session.cache.samples.ids.index(name)


def post(client: Any, path: str, body: dict[str, Any], **headers: str) -> Any:
    body = {"cache": client.get("/state").json()["cache_id"], **body}
    return client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json", **headers})


def test_a_label_is_saved_and_the_answer_says_what_comes_next(client: Any, session: LabelSession) -> None:
    before = client.get("/state").json()
    row = before["queue"][0]["row"]
    answer = post(client, "/label", {"row": row, "label": "ants", "before": ""})
    assert answer.status_code == 200
    after = answer.json()["state"]
    assert session.path.read_text().splitlines()[1].endswith(",ants,labeled")
    assert [one["row"] for one in after["queue"]] == [one["row"] for one in before["queue"][1:]]
    assert [(one["row"], one["label"]) for one in after["history"]] == [(row, "ants")]
    assert (after["labeled"], after["total"]) == (1, 6)
    assert after["classes"] == [{"name": "<b>bold</b>", "count": 0}, {"name": "ants", "count": 1}]
    assert after["table"] == str(session.path)
    assert after["command"].startswith("featcache update ")
    assert after["command"].endswith("cache.labels.csv")
    skipped = post(client, "/skip", {"row": after["queue"][0]["row"], "before": ""}).json()["state"]
    assert (skipped["skipped"], len(skipped["history"])) == (1, 2)
    assert post(client, "/skipped", {}).json()["state"]["skipped"] == 0


def test_what_the_page_shows_is_what_was_computed(client: Any, session: LabelSession) -> None:
    for number, one in enumerate([*session.queue]):
        session.label(one.row, ["ants", "bees"][number % 2], "")
    session.assess()
    (computed,) = session.assessments
    assert computed.accuracy is not None
    assert client.get("/state").json()["accuracy"] == {
        "labels": 6,
        "held_out": computed.accuracy.n,
        "accuracy": computed.accuracy.accuracy,
        "low": computed.accuracy.accuracy_low,
        "high": computed.accuracy.accuracy_high,
        "head": computed.head,
    }


def test_images_are_sent_upright_and_not_larger_than_a_page(client: Any, session: LabelSession) -> None:
    large = client.get(f"/sample/{row_of(session, '0.png')}")
    assert large.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(large.content)).size == (1024, 768)
    small = client.get(f"/sample/{row_of(session, '3.png')}")
    assert small.headers["content-type"] == "image/png"
    assert np.array_equal(np.array(Image.open(io.BytesIO(small.content))), np.array(random_image(3)))


def test_an_image_that_cannot_be_read_says_why_and_can_be_skipped(client: Any, session: LabelSession) -> None:
    gone, other = (client.get(f"/sample/{row_of(session, name)}") for name in ("1.png", "2.png"))
    assert (gone.status_code, other.status_code) == (422, 422)
    assert gone.text == "This image cannot be shown: No such file or directory. Skip it."
    assert other.text == "This image cannot be shown: its bytes are not those of the cache. Skip it."
    assert post(client, "/skip", {"row": row_of(session, "1.png"), "before": ""}).status_code == 200


def test_nothing_but_samples_and_the_page_is_read(client: Any, session: LabelSession) -> None:
    for path in (
        "/sample/../../etc/passwd",
        "/sample/..%2f..%2fetc%2fpasswd",
        "/label.html",
        "/../label.py",
        "/app.py",
    ):
        assert client.get(path).status_code == 404
    assert client.get("/sample/6").status_code == 422
    assert client.get("/sample/-1").status_code == 404


def test_names_reach_the_page_as_text(client: Any, session: LabelSession) -> None:
    page = client.get("/")
    assert "alert(1)" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    state = client.get("/state")
    assert state.headers["content-type"] == "application/json"
    assert state.headers["x-content-type-options"] == "nosniff"
    assert ODD in {one["path"] for one in state.json()["queue"]}
    script = client.get("/label.js").text
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]


REFUSED = {
    "another origin": ({"Origin": "https://evil.example"}, 403),
    "another port of this machine": ({"Origin": "http://127.0.0.1:8000"}, 403),
    "no origin": ({"Origin": "null"}, 403),
    "a form": ({"Content-Type": "text/plain"}, 403),
    "another host": ({"Host": "evil.example"}, 403),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("loopback", [True, False])
def test_other_pages_cannot_label(name: str, loopback: bool, session: LabelSession) -> None:
    headers, status = REFUSED[name]
    with client_of(session, loopback) as client:
        answer = post(client, "/label", {"row": session.queue[0].row, "label": "ants", "before": ""}, **headers)
    assert answer.status_code == status
    assert not session.path.exists()
    with client_of(session, loopback) as client:
        allowed = {"Origin": f"http://{HOST}"}
        answer = post(client, "/label", {"row": session.queue[0].row, "label": "ants", "before": ""}, **allowed)
    assert answer.status_code == 200


@pytest.mark.parametrize(("host", "status"), [
    (socket.gethostname(), 200), ("192.0.2.7:7860", 200), ("[2001:db8::1]:7860", 200), ("rebound.example:7860", 403),
])  # fmt: skip
def test_off_this_machine_the_host_is_an_address_or_a_name_of_it(host: str, status: int, session: LabelSession) -> None:
    """A name of a stranger's domain can be pointed here after its page was loaded (DNS rebinding)."""
    headers = {"Host": host, "Origin": f"http://{host}"}
    with client_of(session, loopback=False) as client:
        answer = post(client, "/label", {"row": session.queue[0].row, "label": "ants", "before": ""}, **headers)
    assert answer.status_code == status


def test_requests_that_are_not_those_of_the_page_are_refused(client: Any, session: LabelSession) -> None:
    row = session.queue[0].row
    for body in ({"row": "1", "label": "a", "before": ""}, {"row": row, "label": 1, "before": ""}, {"row": row}, []):
        content = json.dumps(
            body if isinstance(body, list) else {"cache": client.get("/state").json()["cache_id"], **body}
        )
        answer = client.post("/label", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
    assert post(client, "/label", {"row": 99, "label": "a", "before": ""}).status_code == 400
    assert (
        "class name must not contain |"
        in post(client, "/label", {"row": row, "label": "a|b", "before": ""}).json()["error"]
    )
    assert post(client, "/label", {"row": row, "label": "a" * 20_000, "before": ""}).status_code == 413
    assert client.get("/label").status_code == 405
    stale = post(client, "/label", {"cache": "other", "row": row, "label": "a", "before": ""})
    assert (stale.status_code, stale.json()["reload"]) == (410, True)
    assert not session.path.exists()


def test_two_tabs_do_not_overwrite_each_other(client: Any, session: LabelSession) -> None:
    row = session.queue[0].row
    assert post(client, "/label", {"row": row, "label": "ants", "before": ""}).status_code == 200
    second = post(client, "/label", {"row": row, "label": "bees", "before": ""})
    assert second.status_code == 409
    assert second.json()["error"] == "It was labeled in another tab in the meantime: ants."
    assert session.labels[row] == "ants"


def test_texts_are_sent_whole_and_as_text(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("title,body,label\n<script>alert(1)</script>,a good film,\nbad,,\n")
    out = tmp_path / "cache.h5"
    extract(tmp_path / "texts.csv", out, backbone=toy_text_encoder(), text_column="title,body")
    session = LabelSession(FeatureCache.open(out), tmp_path / "texts.csv")
    with client_of(session) as client:
        shown = [client.get(f"/sample/{row}") for row in range(2)]
    assert {one.headers["content-type"] for one in shown} == {"text/plain; charset=utf-8"}
    assert {one.text for one in shown} == {"<script>alert(1)</script>\n\na good film", "bad"}
