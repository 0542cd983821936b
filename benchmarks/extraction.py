"""Compare the speed of extraction with its limits and with other tools.

    python benchmarks/extraction.py [DATA] [--networks resnet18 efficientnet_lite0] [--repeats 3] [--peers PYTHON ...]

DATA defaults to FEATCACHE_ANTS_BEES. All images are in the page cache. resnet18 has random weights. Each repeat runs
every measurement once, one after the other, so that a slow moment of the machine affects all of them. The results are
the median, the minimum and the maximum over the repeats; ratios are computed within each repeat. Memory and the
difference of features are measured once.

- read (with the check of the hash), decode, view (the clean view): images/s of each stage alone, one thread per core.
- forward: images/s of each engine on 256 images in memory. If the engine accepts it, two batches of 64 are submitted
  at any time. The ratio compares this with torch.mm on 4096 x 4096 matrices in the same precision, measured
  immediately before and after; the operations counted are the multiplications and additions of the network. Features
  are compared with PyTorch in fp32: the cosine for each image, and the error relative to their norm.
- preparation: images/s of reading, decoding and cropping with the loader alone, 1 + K views per training image.
- end to end: images/s of `extract` with K views, from the folder to the finished cache, including listing and
  hashing. Imports, loading and conversion of the network are not counted. The limit is the time that forward
  (measured immediately before and after) and preparation alone (measured before) need one after the other on all
  cores. Further results are the share of the cores that were busy, and the time of reading, decoding, views and
  writing, summed over the threads, as shares of the cores' time.
- peers (see peers.py): images/s from the folder to features on disk. Imports and building the network are not
  counted, and the network runs once before. tutorial-pass is one pass of the tutorial over its training images,
  without output. Each tool runs in a separate process. --peers names Python interpreters with packages that this one
  does not have.
- peak memory: of `featcache extract --views 8` in a separate process, with a stored conversion of the network.

Writes results/extraction.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

import featcache
from featcache._utils.environment import keep_freed_memory, usable_cores
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from featcache.vision.loader import ViewLoader, read_image

VIEWS = (0, 4, 8, 16)
PEERS = ("timm", "thingsvision", "img2vec", "tutorial-pass")
BATCH = 64


def mm_flops(dtype: torch.dtype) -> float:
    """Operations per second of torch.mm: the best of three runs."""
    a, b = (torch.randn(4096, 4096, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2 * 4096**3 / min(record.seconds(lambda: a @ b) for _ in range(3))


def operations(backbone: featcache.Backbone) -> int:
    """Multiplications and additions for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.module(torch.zeros(1, 3, backbone.image_size, backbone.image_size))
    return int(counter.get_total_flops())


def engines_of(network: str, weights: str, compiled: bool) -> dict[str, featcache.Backbone]:
    """The network on each engine, loaded."""
    engines = {}
    for engine, precision in (("pytorch", "fp32"), ("pytorch", "auto"), ("compiled", "auto"), ("openvino", "auto")):
        if engine == "compiled" and not compiled:
            continue
        backbone = featcache.load_backbone(network, weights=weights, device="cpu", precision=precision)
        try:
            backbone.select_engine(backbone.image_size, engine, 10**9)
        except featcache.FeatcacheError as error:
            print(error, file=sys.stderr)
            continue
        engines[f"{engine} {backbone.precision}"] = backbone
    return engines


def some_views(manifest: featcache.Manifest, backbone: featcache.Backbone) -> np.ndarray:
    """BATCH clean views of the data."""
    loader = ViewLoader(manifest, backbone.view_spec())
    step = max(1, len(manifest.samples) // BATCH)
    pixels: np.ndarray = next(loader.batches(range(0, len(manifest.samples), step), [0], BATCH)).inputs
    loader.close()
    return pixels


def faithfulness(features: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Compare features (b, d) with those of PyTorch in fp32."""
    cosine = (features * exact).sum(1) / np.linalg.norm(features, axis=1) / np.linalg.norm(exact, axis=1)
    error = np.linalg.norm(features - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return {"cosine mean": float(cosine.mean()), "cosine least": float(cosine.min()), "error": float(error.mean())}


def forward_rate(backbone: featcache.Backbone, pixels: np.ndarray) -> float:
    """Images per second, with two batches submitted at any time."""
    backbone.embed(pixels)
    started, waiting = time.perf_counter(), [backbone.submit(pixels)]
    for _ in range(3):
        waiting.append(backbone.submit(pixels))
        waiting.pop(0)()
    waiting.pop()()
    return 4 * len(pixels) / (time.perf_counter() - started)


def stage_rates(manifest: featcache.Manifest, spec: featcache.ViewSpec) -> dict[str, float]:
    """Images per second of reading, decoding and making the clean view, each alone, one thread per core."""
    rows = list(range(len(manifest.samples)))
    hashes = [row.tobytes() for row in manifest.samples.sha256]
    rates = {}
    with ThreadPoolExecutor(usable_cores()) as pool:

        def run(name: str, job: Callable[..., Any], *inputs: list[Any]) -> list[Any]:
            started = time.perf_counter()
            outputs = list(pool.map(job, *inputs))
            rates[name] = len(rows) / (time.perf_counter() - started)
            return outputs

        files = run("read", lambda row, sha: read_image(manifest, row, sha), rows, hashes)
        images = run("decode", decode, files)
        run("view", lambda image, sha: make_views(image, spec, sha, [0]), images, hashes)
    return rates


def peak_memory_mb(data: str, network: str, weights: str) -> int:
    """Peak memory of `featcache extract --views 8` in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        code = "from featcache_cli.main import main; main()"
        line = [sys.executable, "-c", code, "extract", data, "-o", f"{folder}/cache.h5", "--views", "8", "--json"]
        line += ["--augment", "tutorial", "--backbone", network, "--weights", weights]
        answer = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    return round(answer["peak_memory_bytes"] / 1e6)


def prepare(manifest: featcache.Manifest, backbone: featcache.Backbone, views: int) -> None:
    """Read, decode and crop all images."""
    loader = ViewLoader(manifest, backbone.view_spec())
    samples = manifest.samples
    rest = np.concatenate([samples.rows("val"), samples.rows("test")])
    for rows, numbers in ((samples.rows("train"), range(1 + views)), (rest, [0])):
        for _ in loader.batches(rows, numbers, max(1, 32 // len(numbers))):
            pass
    loader.close()


def end_to_end(
    manifest: featcache.Manifest, data: str, backbone: featcache.Backbone, views: int, pixels: np.ndarray
) -> dict[str, float]:
    """Images per second of `extract`, of its limit and of preparation; shares of the cores' time."""
    n, trained = len(manifest.samples), len(manifest.samples.rows("train"))
    preparation = record.seconds(lambda: prepare(manifest, backbone, views))
    before = forward_rate(backbone, pixels)
    with tempfile.TemporaryDirectory() as folder:
        out, started = Path(folder, "cache.h5"), time.process_time()
        clock = time.perf_counter()
        seconds = featcache.extract(data, out, backbone=backbone, views=views, augment="tutorial").report.seconds
        took, busy = time.perf_counter() - clock, time.process_time() - started
    a_view = (1 / before + 1 / forward_rate(backbone, pixels)) / 2
    return {
        "end to end": n / took,
        "limit": n / ((n + trained * views) * a_view + preparation),
        "preparation": n / preparation,
        "cores busy": busy / took / usable_cores(),
        **{f"share {stage}": seconds[stage] / took / usable_cores() for stage in ("read", "decode", "view", "write")},
    }


def peer(pythons: list[str], name: str, data: str, network: str) -> float | None:
    """Images per second, in the first Python that can run the tool; None if no Python can."""
    for python in pythons:
        with tempfile.TemporaryDirectory() as folder:
            line = [python, str(record.HERE / "peers.py"), name, data, f"{folder}/out", "--network", network]
            ran = subprocess.run(line, capture_output=True, text=True, check=False)
        if not ran.returncode:
            answer = json.loads(ran.stdout.splitlines()[-1])
            return answer["images"] / answer["seconds"]
    print(f"{name} {network}: {ran.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
    return None


def one_round(
    manifest: featcache.Manifest, data: str, network: str, engines: dict[str, featcache.Backbone], peers: list[str]
) -> dict[str, float]:
    """Run every measurement once: images or operations per second by name, and shares of busy cores."""
    pixels = some_views(manifest, engines["pytorch fp32"])
    rates = stage_rates(manifest, engines["pytorch fp32"].view_spec())
    for name, backbone in engines.items():
        dtype = torch.float32 if name.endswith("fp32") else torch.bfloat16
        before = mm_flops(dtype)
        rates[f"forward {name}"] = forward_rate(backbone, pixels)
        rates[f"mm at {name}"] = 2 / (1 / before + 1 / mm_flops(dtype))
    best = list(engines)[-1]
    for views in VIEWS:
        for name in engines if views == 0 else [best]:
            figures = end_to_end(manifest, data, engines[name], views, pixels)
            rates |= {f"{what} K={views} {name}": figure for what, figure in figures.items()}
    for name in PEERS:
        model = "tf_efficientnet_lite0" if network == "efficientnet_lite0" else network
        if model == network or name in ("timm", "thingsvision"):
            rate = peer([sys.executable, *peers], name, data, model)
            rates |= {} if rate is None else {f"peer {name}": rate}
    return rates


def summary(rounds: list[dict[str, float]], flops: int, best: str) -> dict[str, Any]:
    """Medians with minimum and maximum, and the ratios."""
    rates, ratios = defaultdict(list), defaultdict(list)
    for round_rates in rounds:
        for name, rate in round_rates.items():
            kind, _, rest = name.partition(" ")
            (ratios if kind in ("cores", "share") else rates)[name].append(rate)
            if kind == "forward":
                ratios[f"{name} / torch.mm"].append(rate * flops / round_rates[f"mm at {rest}"])
            if kind == "end":
                ratios[f"{name} / limit"].append(rate / round_rates[name.replace("end to end", "limit")])
            if kind == "peer":
                ratios[f"end to end K=0 / {rest}"].append(round_rates[f"end to end K=0 {best}"] / rate)
        for name in round_rates:  # without OpenVINO
            if "peer timm" in round_rates and name.startswith(("end to end K=0 pytorch", "end to end K=0 compiled")):
                ratios[f"{name} / timm"].append(round_rates[name] / round_rates["peer timm"])
    return {
        "rates, images/s (mm: operations/s)": {name: record.spread(values) for name, values in rates.items()},
        "ratios": {name: record.spread(values) for name, values in ratios.items()},
    }


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--networks", nargs="+", default=["resnet18", "efficientnet_lite0"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peers", metavar="PYTHON", nargs="+", default=[], help="Python with thingsvision or img2vec_pytorch"
    )
    parser.add_argument("--compiled", action="store_true", help="also measure torch.compile: a minute per network")
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of class folders")
    keep_freed_memory()
    measured, manifest, results = record.commit(), featcache.read_manifest(options.data), {}
    for network in options.networks:
        weights = "pretrained" if network == "efficientnet_lite0" else "none"
        engines = engines_of(network, weights, options.compiled)
        pixels = some_views(manifest, engines["pytorch fp32"])
        exact = engines["pytorch fp32"].embed(pixels)
        rounds = []
        for number in range(options.repeats):
            rounds.append(one_round(manifest, options.data, network, engines, options.peers))
            print(network, f"repeat {number + 1}", {k: round(v, 1) for k, v in rounds[-1].items()}, file=sys.stderr)
        results[network] = {
            "operations an image": operations(engines["pytorch fp32"]),
            **summary(rounds, operations(engines["pytorch fp32"]), list(engines)[-1]),
            "peak memory MB": peak_memory_mb(options.data, network, weights),
            "features": {name: faithfulness(b.embed(pixels), exact) for name, b in engines.items()},
        }
    record.write("extraction", {"images": len(manifest.samples), "repeats": options.repeats, **results}, measured)


if __name__ == "__main__":
    main()
