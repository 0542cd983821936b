"""Measure how exact and how slow exports are, for each network and format, with a head fitted on its features.

    python benchmarks/export.py [DATA] [--weights PATH]

DATA defaults to FEATCACHE_ANTS_BEES. PATH, a state dict of torchvision's mobilenet_v2, defaults to FEATCACHE_WEIGHTS.
The networks are the embedded one, mobilenet_v2 with PATH, and resnet18 and timm's vit_small_patch16_224 with random
weights, which do not change the time. Heads are `linear`, fitted on the clean views.

- difference: between the logits of the exported model, in a fresh process without featcache, and the logits of
  featcache in PyTorch, fp32. The largest difference for four noise images, one alone and all four in a batch, is
  divided by the largest logit.
- seconds: of one call of export(), separately for loading, writing, and the check in the fresh process (including its
  imports). A first call, which imports modules, is not counted.
- bytes: of the file.

Writes results/export.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import record

from featcache import export, extract, fit_head
from featcache.models.export.registry import EXPORT_FORMATS

NETWORKS = ("efficientnet_lite0", "mobilenet_v2", "resnet18", "timm/vit_small_patch16_224")


def measure(model: Path, out: Path, format: str) -> dict[str, Any]:
    """Export one model once."""
    moments = []
    done = export(model, out, format, on_step=lambda step: moments.append(time.perf_counter()))
    moments.append(time.perf_counter())
    load, write, check = (round(after - before, 2) for before, after in pairwise(moments))
    out.unlink()
    return {
        "difference": float(f"{done.difference:.2g}"),
        "seconds": {"load": load, "write": write, "check": check},
        "bytes": done.size_bytes,
    }


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--weights", default=os.environ.get("FEATCACHE_WEIGHTS"))
    options = parser.parse_args()
    if not options.data or not options.weights:
        sys.exit("give DATA and --weights, or set FEATCACHE_ANTS_BEES and FEATCACHE_WEIGHTS")
    commit = record.commit()
    weights = {"efficientnet_lite0": "pretrained", "mobilenet_v2": options.weights}
    networks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in NETWORKS:
            folder = Path(work, name.replace("/", "-"))
            cache = Path(f"{folder}.h5")
            extract(options.data, cache, backbone=name, weights=weights.get(name, "none"), views=0, precision="fp32")
            fit_head(cache, folder)
            if not networks:
                for format in EXPORT_FORMATS.names():
                    measure(folder, Path(work, "mine.pt2"), format)
            networks[name] = {
                format: measure(folder, Path(work, "mine.pt2"), format) for format in EXPORT_FORMATS.names()
            }
    record.write("export", {"data": Path(options.data).name, "networks": networks}, commit)


if __name__ == "__main__":
    main()
