"""The plan of an extraction of texts: its rates are those of the tokens, the encoder and the file."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import done
from featcache.analysis.planning.capacity import Prices
from featcache.analysis.planning.plan import plan
from featcache.analysis.planning.rates import measure_rates
from featcache.backbones.text_tokenizer import Tokenized
from featcache.errors import DataLayoutError, EmptyFolderError
from featcache.extraction.extract import extract
from featcache.reports.pages.capacity import write_capacity_page
from pagereader import read_page
from toytexts import ToyTokenizer, toy_text_encoder, write_text_model

FIXED = dict.fromkeys(("hash_bytes_per_s", "forward_s", "write_s_per_sample", "solver_s_per_row"), 1.0)
TEXTS = [f"{'very ' * (number % 4)}{word} film é {number}" for number in range(12) for word in ("good", "bad")]


class SlowTokenizer(ToyTokenizer):
    """It computes for 10 ms a text."""

    def __call__(self, texts: Sequence[str], separator: str = "", /) -> Tokenized:
        until = time.process_time() + 0.01 * len(texts)
        while time.process_time() < until:
            pass
        return super().__call__(texts, separator)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 texts in two classes, 4 of them val, and an empty one."""
    path = tmp_path_factory.mktemp("plan") / "reviews.csv"
    rows = [[text, "ab"[number % 2], "val" if number < 4 else "train"] for number, text in enumerate(TEXTS)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "split"], *rows, ["", "a", "train"]])
    return path


def test_the_rates_are_those_of_the_texts(table: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    encoder = toy_text_encoder(tokenizer=SlowTokenizer(max_length=20), layers="all")
    rates = measure_rates(table, backbone=encoder, views=2, on_note=notes.append)
    assert rates.modality == "text"
    assert rates.sample_bytes == pytest.approx(np.mean([len(text.encode()) for text in TEXTS]))
    assert rates.views == pytest.approx((20 * 3 + 4 + 3) / 25)
    assert rates.view_s == pytest.approx(0.01, rel=0.3)
    assert 0 <= rates.decode_s < 0.005
    assert min(rates.forward_s, rates.solver_s_per_row, rates.write_s_per_sample, rates.hash_bytes_per_s) > 0
    assert rates.on_gpu is False
    cache = extract(table, tmp_path / "c.h5", backbone=encoder, views=2).cache
    assert rates.cache_bytes * 25 == pytest.approx(cache.size_bytes, abs=1e5)
    assert f"1 of the 25 measured texts cannot be read, for example {table}, line 26: an empty text" in notes


def test_without_views_the_tokens_of_the_text_itself_count(table: Path) -> None:
    rates = measure_rates(table, backbone=toy_text_encoder(tokenizer=SlowTokenizer(max_length=20)), provided=FIXED)
    assert rates.views == 1
    assert rates.decode_s + rates.view_s == pytest.approx(0.01, rel=0.3)


def test_the_driver_holds_the_texts_of_a_table(table: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.csv"
    rows = [[f"{text} {'word ' * 1000}", "ab"[number % 2]] for number, text in enumerate(TEXTS)]
    with long.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    short_bytes, long_bytes = (
        measure_rates(data, backbone=toy_text_encoder(), provided=FIXED).memory_bytes for data in (table, long)
    )
    assert 5_000 < long_bytes - short_bytes < 50_000
    assert short_bytes < 3_000


def test_plan_speaks_of_texts(table: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"samples": [10**6], "workers": [4], "prices": Prices(thousand_reads=0.1)}
    result = plan(table, backbone=toy_text_encoder(), provided=FIXED, **options)
    header, row, *remarks = str(result).splitlines()
    assert (header.split("  ")[0], row.split()[0]) == ("texts", "1,000,000")
    assert "- One machine reads and hashes all texts, to find near copies" in remarks
    assert result.scenarios[0].seconds["hash"] == pytest.approx(10**6 * result.rates.sample_bytes)
    page = tmp_path / "plan.html"
    write_capacity_page(page, result, table, None)
    rates = read_page(page).sections["Rates"]
    assert rates.lines == ["Measured with texts of reviews.csv and the network all-minilm-l6-v2"]
    assert ["write_s_per_sample", "1 texts/s", "provided"] in rates.tables[0]
    assert "image" not in page.read_text(encoding="utf-8").partition("<h2>Formula")[0].partition("<body")[2].replace(
        "data:image", ""
    )
    with pytest.raises(DataLayoutError, match=r"^all texts are read, to find near copies, .* Leave out --hashed\.$"):
        plan(table, backbone=toy_text_encoder(), provided=FIXED, hashed=True)


def test_what_texts_do_not_have_is_refused(table: Path, tmp_path: Path) -> None:
    for options, reason in (
        ({"image_size": 96}, "image_size is for images"),
        ({"backbone": "resnet18"}, "resnet18 is a network for images"),
    ):
        with pytest.raises(DataLayoutError, match=f"holds texts, and {reason}"):
            measure_rates(table, provided=FIXED, **options)
    (tmp_path / "empty.csv").write_text("text,label,split\n,a,train\n ,b,train\n  ,a,val\n")
    with pytest.raises(EmptyFolderError, match=r"^none of 3 texts of .*empty\.csv can be read: "):
        measure_rates(tmp_path / "empty.csv", backbone=toy_text_encoder(), provided=FIXED)


def test_the_command_takes_the_options_of_texts(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["body", "label"], *([text, "ab"[number % 2]] for number, text in enumerate(TEXTS))]
        )
    network = ("--backbone", f"transformers/{write_text_model(tmp_path / 'bert')}", "--weights", "none")
    text = done("plan", tmp_path / "reviews.csv", "--text-column", "body", "--max-length", 5, "--prefix", "the ",
                "--samples", "1M", "--workers", 2, *network)  # fmt: skip
    assert text.splitlines()[0].startswith("texts")
    assert text.splitlines()[1].split()[:2] == ["1,000,000", "2"]
