"""Images with several labels: pictures brighter in the channels of their colours, and features that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.cache.features import Features
from featcache.core.samples import Samples

COLOURS = ("red", "green", "blue")  # label and channel; sorted they are blue, green, red
MIXTURES = ("red", "green", "blue", "red|green", "red|blue", "green|blue", "red|green|blue", "")
PICTURES = {"train": 24, "val": 8}


def coloured(seed: int, colours: str) -> Image.Image:
    """Noise, brighter in the channel of each colour of "red|blue"."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (14, 20, 3)) + np.linspace(0, 60, 20)[None, :, None]
    for channel, name in enumerate(COLOURS):
        pixels[..., channel] += 70 * (name in colours.split("|"))
    return Image.fromarray(pixels.astype(np.uint8))


def write_pictures(root: Path, labels: dict[int, str] | None = None) -> Path:
    """24 + 8 pictures of all mixtures of colours, and the CSV file that lists them; `labels` says otherwise of some."""
    root.mkdir()
    for number in range(sum(PICTURES.values())):
        coloured(number, MIXTURES[number % 8]).save(root / f"{number:02d}.png")
    return list_pictures(root, labels)


def list_pictures(root: Path, labels: dict[int, str] | None = None) -> Path:
    """The CSV file alone."""
    lines = ["path,label,split"]
    for number in range(sum(PICTURES.values())):
        label = (labels or {}).get(number, MIXTURES[number % 8])
        lines.append(f"{number:02d}.png,{label},{'train' if number < PICTURES['train'] else 'val'}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root / "list.csv"


def features(
    x: NDArray[Any], labels: NDArray[Any], contents: Any = None, names: Sequence[str] = "abcdefgh"
) -> Features:
    """Training images of x (n, v, d) with labels (n, c), or (n,); those with equal `contents` have equal bytes."""
    n = len(labels)
    sha256 = np.random.default_rng(5).integers(0, 256, (n, 32), dtype=np.uint8)
    contents = np.arange(n) if contents is None else contents
    classes = tuple(names)[: labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1]
    ids = tuple(f"{row}.png" for row in range(n))
    return Features(x, Samples(ids, labels, np.zeros(n, np.uint8), sha256[contents], classes))


def overlapping(n: int = 60, c: int = 3, d: int = 6, views: int = 1, seed: int = 0) -> Features:
    """Each label moves an image in a direction of its own, the later ones less far; views of an image differ a bit."""
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=(n, c)) < np.linspace(0.5, 0.3, c)).astype(np.uint8)
    moves = rng.normal(size=(c, d)) * np.linspace(1.5, 0.5, c)[:, None]
    clean = 3 + labels @ moves + rng.normal(size=(n, d))
    x = clean[:, None] + 0.5 * rng.normal(size=(n, 1 + views, d))
    x[:, 0] = clean
    return features(x.astype(np.float32), labels)
