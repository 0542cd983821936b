"""Check and measure featcache on a GPU: benchmarks/results/gpu.json.

    python benchmarks/gpu.py [DATA] [--images 7000] [--networks resnet50 efficientnet_lite0 vit_b_16] [--repeats 3]
                             [--seconds 420] [--steps tests views ...]
    python benchmarks/gpu.py --small --device cpu    # a rehearsal without a GPU, in a minute

DATA defaults to FEATCACHE_ANTS_BEES. Its JPEG files are copied until there are --images of them; a comment in each copy
gives it another hash, and so other views. They lie in the page cache. Networks have random weights, except the embedded
one. Figures are medians, minima and maxima of --repeats, or of one run that takes more than 5 s. The file is written
after each figure. A step that fails is recorded with its error, and the others go on. A step ends after --seconds; a
step without time is recorded as left out.

- tests: tests/integration/test_gpu.py in a process of its own, without the tests that compile.
- views: values that differ between views made on the device and those of the CPU (expected: 0), and views/s.
- features: cosine between features of the device in fp32 and of the CPU in fp32, and of bf16.
- waits: lines of code at which the host waits for the GPU, counted by PyTorch: in one extraction, and in one epoch of
  training of each kind.
- forward: views/s of the network alone, with and without a CUDA graph; its peak memory, and the seconds until it is
  ready. compiled: the same of the first network with torch.compile.
- loader: images/s of reading, decoding and making 1 + K views alone, by threads; and of reading and decoding alone,
  which is what the threads of `extract` do for a GPU.
- extract: images/s and views/s of `extract` from the folder to the finished cache, for K views. `of the bottleneck` is
  the ratio to the slower of the network alone and the loader alone, both measured immediately before. Loading the
  network is not counted. `GPU busy` is the mean utilization that nvidia-smi reports.
- train: images/s of the second epoch of `finetune`, with the share of the time spent waiting for images.
- heads: seconds of one linear head on synthetic features, on the CPU and on the device.
- tutorial: seconds of the PyTorch tutorial's frozen loop for 10 epochs on 1,500 images (see peers.py, 4 workers), and
  of `extract` with 8 views and `fit-head` as processes, on the same GPU.
- memory: what `extract` does if only a small part of the memory of the GPU is free.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import record
import torch
from gpu_setup import EMBEDDED, Setup
from gpu_steps import STEPS

from featcache._utils.environment import machine_info, package_versions


def main() -> None:
    """Parse options, run the steps, write the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default=os.environ.get("FEATCACHE_ANTS_BEES"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=7000)
    parser.add_argument("--networks", nargs="+", default=["resnet50", EMBEDDED, "vit_b_16"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=420, help="start no step that needs more time than is left")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--small", action="store_true", help="24 small images, one repeat, resnet18 alone")
    parser.add_argument("--out", type=Path, default=record.RESULTS / "gpu.json")
    options = parser.parse_args()
    if not options.data:
        sys.exit("give DATA, or set FEATCACHE_ANTS_BEES to a folder of class folders")
    started, measured = time.perf_counter(), record.commit()
    memory_folder = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_folder if memory_folder.is_dir() else None) as folder:
        setup = Setup(
            Path(options.data),
            Path(folder),
            options.device,
            options.networks,
            options.images,
            options.repeats,
            options.small,
        )
        if options.small:
            setup.networks, setup.images, setup.repeats = ["resnet18"], 24, 1
        for name in options.steps:
            needed, step = STEPS[name]
            figures = setup.figures[name] = {}
            for figure in run(step, setup, started + options.seconds, needed):
                figures |= figure
                write(setup, options.out, measured)
            print(f"[{time.perf_counter() - started:5.0f} s] {name}: {json.dumps(figures)}", flush=True)


def run(
    step: Callable[[Setup], Iterator[tuple[str, Any]]], setup: Setup, deadline: float, needed_s: float
) -> Iterator[dict[str, Any]]:
    """The figures of a step until the deadline, and its seconds; or its error."""
    started = time.perf_counter()
    if deadline - started < needed_s:
        yield {"left out": f"{max(0.0, deadline - started):.0f} s were left"}
        return
    try:
        for name, figure in step(setup):
            yield {name: figure}
            if time.perf_counter() > deadline:
                yield {"stopped": "the time was over"}
                break
    except Exception as error:  # the next steps are worth their time all the same
        traceback.print_exc()
        yield {"failed": f"{type(error).__name__}: {str(error)[:500]}"}
    yield {"seconds of the step": round(time.perf_counter() - started, 1)}


def write(setup: Setup, out: Path, measured: str) -> None:
    """Write the figures so far, with machine and versions."""
    gpu = {"gpu": torch.cuda.get_device_name(setup.device)} if setup.on_gpu else {}
    machine = {**machine_info(), **gpu}
    about = {"images": setup.images, "repeats": setup.repeats, "small": setup.small, "device": setup.device}
    versions = {**package_versions(), "commit": measured}
    out.write_text(json.dumps({**about, **setup.figures, "machine": machine, "versions": versions}, indent=1) + "\n")


if __name__ == "__main__":
    main()
