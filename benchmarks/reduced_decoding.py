"""JPEG files decoded at a part of their size (`decode_side`): how much faster, and how far do views and features move?

The clock covers the processor time of one thread: decoding, and the views of one photo (the clean one and four of the
recipe). Errors are those against views of the photo decoded in full: of pixels in levels of 255, of features of the
embedded network in fp32 as cosines. Photos are drawn in two ways from a folder of smaller ones: `mosaic` has them side
by side, with all detail that a sharp photo can have; `enlarged` is one of them, enlarged, with the noise of a sensor.

A crop is drawn in whole pixels of the decoded image, so an augmented view of a reduced photo shows a crop that lies up
to half a pixel of the reduced photo elsewhere: it is another draw, more than a worse one.

    python benchmarks/reduced_decoding.py DATA [--photos 8] [--seed 0]
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from numpy.typing import NDArray
from PIL import Image

from featcache import load_backbone
from featcache.core.specs import EMBEDDED, ViewSpec
from featcache.vision.augment import make_views
from featcache.vision.decode import decode

SIZES = ((4000, 3000), (2000, 1500), (1000, 750))
MULTIPLES = (1, 2, 3, 4, 6)
"""Of `resize_size`: values of `decode_side`."""
RECIPES = ("gentle", "tutorial")
NUMBERS = range(5)
SMALL = (500, 375)

Pixels = NDArray[np.uint8]


def mosaic(files: list[Path], width: int, height: int, rng: np.random.Generator) -> Image.Image:
    whole = Image.new("RGB", (width, height))
    for left in range(0, width, SMALL[0]):
        for top in range(0, height, SMALL[1]):
            part = Image.open(files[rng.integers(len(files))]).convert("RGB").resize(SMALL, Image.Resampling.BICUBIC)
            whole.paste(part, (left, top))
    return whole


def enlarged(files: list[Path], width: int, height: int, rng: np.random.Generator) -> Image.Image:
    photo = Image.open(files[rng.integers(len(files))]).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(photo, np.float32) + rng.normal(0, 5, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def timed(job: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The least milliseconds of this thread on a processor, and the result."""
    least = np.inf
    for _ in range(repeats):
        started = time.thread_time()
        result = job()
        least = min(least, time.thread_time() - started)
    return 1000 * least, result


def cosines(one: NDArray[Any], other: NDArray[Any]) -> list[float]:
    """Mean and minimum."""
    products = (one * other).sum(-1) / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))
    return [round(float(products.mean()), 6), round(float(products.min()), 6)]


def errors(views: Pixels, features: NDArray[Any], full_views: Pixels, full_features: NDArray[Any]) -> dict[str, Any]:
    """Of views (n, v, s, s, 3) and features (n, v, d)."""
    levels = np.abs(views.astype(np.int16) - full_views)
    return {
        "pixels_mean": round(float(levels.mean()), 3),
        "pixels_99_percent": float(np.percentile(levels, 99)),
        "pixels_max": int(levels.max()),
        "cosine_mean_and_min": cosines(features, full_features),
    }


def measure(photos: list[bytes], embed: Callable[[Pixels], NDArray[Any]], spec: ViewSpec) -> dict[str, Any]:
    """Each `decode_side` against decoding in full; those that decode alike are measured once."""
    found: dict[str, Any] = {}
    shapes, full = set[tuple[int, ...]](), None
    for side in (None, *(multiple * spec.resize_size for multiple in reversed(MULTIPLES))):
        decoding, viewing, made, shape = [], [], [], (0, 0, 0)
        for number, data in enumerate(photos):
            if number == 0 and (shape := decode(data, decode_side=side).shape) in shapes:
                break
            spent, image = timed(partial(decode, data, decode_side=side))
            decoding.append(spent)
            key = number.to_bytes(32)
            spent, views = timed(partial(make_views, image, spec, key, NUMBERS))
            viewing.append(spent)
            made.append(views)
        else:
            shapes.add(shape)
            views = np.stack(made)
            features = embed(views.reshape(-1, *views.shape[2:])).reshape(*views.shape[:2], -1)
            row: dict[str, Any] = {
                "decoded": f"{shape[1]}x{shape[0]}",
                "decode_ms": record.spread(decoding),
                "views_ms": record.spread(viewing),
            }
            if full is None:
                full = views, features, np.median(decoding), np.median(viewing)
            else:
                row["times_faster"] = round(float((full[2] + full[3]) / (np.median(decoding) + np.median(viewing))), 2)
                row["clean"] = errors(views[:, :1], features[:, :1], full[0][:, :1], full[1][:, :1])
                row["augmented"] = errors(views[:, 1:], features[:, 1:], full[0][:, 1:], full[1][:, 1:])
            found["in full" if side is None else f"decode_side {side}"] = row
            print(row, file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder of photos")
    parser.add_argument("--photos", type=int, default=8, help="of each kind and size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured, backbone = record.commit(), load_backbone(EMBEDDED, device="cpu", precision="fp32")
    files = sorted(options.data.rglob("*.jpg"))
    figures: dict[str, Any] = {"photos_of_each_kind_and_size": options.photos, "views": len(NUMBERS)}
    for kind in (mosaic, enlarged):
        for width, height in SIZES:
            rng = np.random.default_rng(options.seed)
            photos = [encode(kind(files, width, height, rng)) for _ in range(options.photos)]
            for augment in RECIPES:
                name = f"{kind.__name__} {width}x{height} {augment}"
                print(name, file=sys.stderr, flush=True)
                figures[name] = measure(photos, backbone.embed, ViewSpec(augment=augment))
    sample = np.stack(
        [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in files[:: len(files) // 32]]
    )
    exact, rounded = (backbone.feature_extractor.embed(sample, precision)[0] for precision in ("fp32", "bf16"))
    figures["cosine of bf16 with fp32, mean and min"] = cosines(exact, rounded)
    record.write("reduced_decoding", figures, measured)


if __name__ == "__main__":
    main()
