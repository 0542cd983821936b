"""Draw the pictures of docs/ from scikit-learn's digits, with featcache's commands: benchmarks/results/*.png.

    python benchmarks/pictures.py [--work FOLDER]

Run it after a change of the style; it measures no time. `screenshot.py` makes the picture of the web page.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import record

from featcache.vision import demo_datasets
from featcache_cli.main import main as featcache

WIDTH = 480  # pixels, as docs/guides/figures.md shows three beside each other


def main() -> None:
    """Extract, fit, draw and shrink."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo"), help="folder for digits, cache and head")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    data, cache, head = demo_datasets.prepare("digits", work), work / "pictures.h5", work / "pictures-head"
    for line in (
        f"extract {data} -o {cache} --views 4 --image-size 48 --augment crop",
        f"fit-head {cache} -o {head}",
        f"show views {cache} {data} -o {work}/views.png",
        f"show predictions {head} {data} -o {work}/predictions.png",
        f"show map {cache} {data} --method tsne -o {work}/map.png",
    ):
        featcache(line.split(), standalone_mode=False)
    for name in ("views", "predictions", "map"):
        _shrink(work / f"{name}.png", record.RESULTS / f"{name}.png")


def _shrink(source: Path, target: Path) -> None:
    """Reduce the size, and the colours to 128."""
    from PIL import Image

    with Image.open(source) as image:
        small = image.convert("RGB").resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
        small.quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
