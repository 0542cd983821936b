"""Compare the default head with fine-tuning, on pairs of a data set and a network.

    python benchmarks/fine_tuning.py [--work demo/fine-tuning] [--finetune]

Each data set (benchmarks/sets.py) has three parts. The head is that of `extract --views 0` and `fit-head` at their
defaults. Fine-tuning trains on train with two views per image and keeps its best epoch on val; of two recipes the one
with the better val accuracy counts. Both are scored on test, which neither has used. Images have 96 pixels. Each
recipe runs with one seed; another seed can change its result by several points.

Only the heads are measured, unless --finetune is given: the accuracies of fine-tuning are those in
results/fine_tuning.json, measured at the commit in `fine_tuning_versions`. Without its predictions, McNemar's p is
not known, but it has a lower bound: no image that only the head predicts right. Fine-tuning may pay if it gains at
least one point of test accuracy and the lower bound of p is below 0.05.

These figures decided the removal of `featcache forecast`: a prediction whether fine-tuning pays beats always
answering "no" with p < 0.1 in an exact one-sided sign test only if it finds four pairs or more in which fine-tuning
pays, without a false alarm (0.5 ** 4 = 0.06; 0.5 ** 3 = 0.13).

Results of pairs are stored in --work, so the same call continues after an interruption. mobilenet_v2 takes its weights
from FEATCACHE_WEIGHTS; the photos are in FEATCACHE_ANTS_BEES. Writes results/fine_tuning.json and the table
results/fine_tuning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record
import sets

from featcache import FeatureCache, TrainConfig, extract, finetune, fit_head
from featcache._utils.environment import package_versions

SIZE, VIEWS = 96, 2
RECIPES = {
    "sgd": TrainConfig(epochs=8, lr=0.01),
    "adamw": TrainConfig(epochs=8, lr=1e-3, optimizer="adamw", schedule="cosine", weight_decay=0.01),
}
MIN_GAIN, SIGNIFICANT = 0.01, 0.05
NEEDED = 4
"""Pairs in which fine-tuning pays that a prediction must find to beat always answering "no" with p < 0.1."""


def prepare(pair: dict[str, Any], work: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The images of a pair, its folder, and the options that extraction and fine-tuning share."""
    data = sets.write_set(pair["set"], work / _plain(f"set {pair['set']}"))
    folder = work / _plain(" ".join((pair["set"], pair["network"], pair["weights"])))
    folder.mkdir(parents=True, exist_ok=True)
    weights = os.environ["FEATCACHE_WEIGHTS"] if pair["weights"] == "imagenet" else pair["weights"]
    return data, folder, {"backbone": pair["network"], "weights": weights, "image_size": SIZE}


def _plain(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def extract_clean(pair: dict[str, Any], work: Path) -> Path:
    """The cache of a pair, without augmented views."""
    data, folder, shared = prepare(pair, work)
    extract(data, folder / "cache.h5", precision="fp32", views=0, **shared)
    return folder / "cache.h5"


def measure_head(pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """Test accuracy of the default head."""
    path = extract_clean(pair, work)
    fit = fit_head(path)
    samples = FeatureCache.open(path).samples
    images = {split: len(samples.rows(split)) for split in ("train", "val", "test")}
    if fit.report.test is None:
        raise AssertionError("every set has test images")
    return {"images": images, "head": fit.report.test.accuracy, "kind": fit.name, "layers": fit.layers}


def measure_finetuning(pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """Test accuracy of the recipe with the better val accuracy."""
    data, folder, shared = prepare(pair, work)
    augment = "tutorial" if pair["set"].startswith("ants") else "crop"
    live = {"precision": "auto", "image_cache": folder / "images.h5", "augment": augment, "resume": True}
    runs = {kind: finetune(data, folder / kind, config=recipe, **live, **shared) for kind, recipe in RECIPES.items()}
    best = max(runs, key=lambda kind: runs[kind].best.val_accuracy)
    test = runs[best].report.test
    if test is None:
        raise AssertionError("every set has test images")
    return {"tuned": test.accuracy, "recipe": best}


def measure(pair: dict[str, Any], work: Path, finetunes: bool) -> dict[str, Any]:
    """A pair with new measurements."""
    for job in (measure_head, *([measure_finetuning] if finetunes else [])):
        stored = prepare(pair, work)[1] / f"{job.__name__}.json"
        if not stored.exists():
            stored.write_text(json.dumps(job(pair, work)))
        pair = {**pair, **json.loads(stored.read_text())}
    return {**pair, **compare(pair["head"], pair["tuned"], pair["images"]["test"])}


def compare(head: float, tuned: float, n: int) -> dict[str, Any]:
    """The gain of fine-tuning, the lower bound of McNemar's two-sided p, and whether fine-tuning may pay."""
    lowest_p = min(1.0, 2 * 0.5 ** abs(round((tuned - head) * n)))
    may_pay = tuned - head >= MIN_GAIN and lowest_p < SIGNIFICANT
    return {"gain": tuned - head, "lowest_p": lowest_p, "may_pay": may_pay}


def page(figures: dict[str, Any]) -> str:
    """The table of all pairs as Markdown."""
    pairs = sorted(figures["pairs"], key=lambda pair: -pair["gain"])
    paying, better = sum(pair["may_pay"] for pair in pairs), sum(pair["gain"] <= 0 for pair in pairs)
    enough = "enough" if paying >= NEEDED else "not enough"
    header = (
        "set",
        "backbone",
        "weights",
        "test images",
        "default head",
        "fine-tuning",
        "gain",
        "p at least",
        "may pay",
    )
    lines = [
        "# Does fine-tuning pay against the default head?",
        "",
        f"The default head (`extract --views 0`, `fit-head`) is at least as accurate as fine-tuning on {better} of "
        f"{len(pairs)} pairs of a data set and a network. Fine-tuning may pay on {paying}: it gains a point or more, "
        f"and McNemar's p can be below {SIGNIFICANT:g}. That is {enough} for a prediction that beats always answering "
        f'"no" with p < 0.1, which needs {NEEDED}.',
        "",
        "Test accuracy at 96 pixels, one seed. Fine-tuning: the better of two recipes of 8 epochs on val. The former "
        f"rule of `featcache forecast` was right for {figures['former rule']['right']} of {len(pairs)} pairs against "
        f'the former default head (linear, penultimate layer), and always answering "no" for '
        f"{figures['former rule']['always no']}. Written by benchmarks/fine_tuning.py; heads of commit "
        f"{figures['versions']['commit']}, fine-tuning of commit {figures['fine_tuning_versions']['commit']}.",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
    ]
    for pair in pairs:
        cells = [pair["set"], pair["network"], pair["weights"], str(pair["images"]["test"])]
        cells += [f"{pair['head']:.3f}", f"{pair['tuned']:.3f}", f"{100 * pair['gain']:+.1f} points"]
        lines.append(f"| {' | '.join(cells)} | {pair['lowest_p']:.2g} | {'yes' if pair['may_pay'] else 'no'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo/fine-tuning"), help="folder for finished pairs")
    parser.add_argument("--finetune", action="store_true", help="fine-tune again; it takes an hour on two cores")
    options = parser.parse_args()
    results = record.RESULTS / "fine_tuning.json"
    figures, measured = json.loads(results.read_text()), record.commit()
    for number, pair in enumerate(figures["pairs"]):
        figures["pairs"][number] = pair = measure(pair, options.work, options.finetune)
        print(pair["set"], pair["network"], f"{pair['head']:.4f} {pair['tuned']:.4f}", file=sys.stderr, flush=True)
    if options.finetune:
        figures["fine_tuning_versions"] = {**package_versions(), "commit": measured}
        figures["recipes"] = {kind: asdict(recipe) for kind, recipe in RECIPES.items()}
    figures["may pay"] = sum(pair["may_pay"] for pair in figures["pairs"])
    figures["head at least as accurate"] = sum(pair["gain"] <= 0 for pair in figures["pairs"])
    record.write("fine_tuning", figures, measured)
    results.with_suffix(".md").write_text(page(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
