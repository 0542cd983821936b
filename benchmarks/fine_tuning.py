"""Compare the default head with fine-tuning, on pairs of a data set and a network.

    python benchmarks/fine_tuning.py [--work demo/fine-tuning] [--finetune coins-efficientnet_lite0-pretrained ...]

Each data set (benchmarks/sets.py) has three parts. The head is that of `extract --views 0` and `fit-head` at their
defaults. Fine-tuning trains on train for 8 epochs and keeps its best epoch on val; of two recipes the one with the
better val accuracy counts. Both are scored on test, which neither has used. Images have 96 pixels. Each recipe runs
with one seed; another seed can change its result by several points.

Only the heads are measured anew. The accuracies of fine-tuning are those in results/fine_tuning.json, measured at the
commit in `fine_tuning_versions`. Of these runs the predictions were not kept, so McNemar's p is not known, but it has a
lower bound: that no image is predicted right by the worse of the two alone. --finetune repeats the better recipe of
some pairs, and stores which images it predicts wrongly; for these p is exact. Fine-tuning could be
significantly better if it gains at least one point of test accuracy and p, or its lower bound, is below 0.05.

These figures decided the removal of `featcache forecast`: a prediction whether fine-tuning is better beats always
answering "no" with p < 0.1 in an exact one-sided sign test only if it finds four pairs or more in which fine-tuning is
better, without a false alarm (0.5 ** 4 = 0.06; 0.5 ** 3 = 0.13).

mobilenet_v2 takes its weights from FEATCACHE_WEIGHTS; the photos are in FEATCACHE_ANTS_BEES. Writes
results/fine_tuning.json and the table results/fine_tuning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import record
import sets
from scipy.stats import binomtest

from featcache import FeatureCache, TrainConfig, extract, finetune, fit_head
from featcache.metrics.predictions import TEST, read_predictions

SIZE = 96
RECIPES = {
    "sgd": TrainConfig(epochs=8, lr=0.01),
    "adamw": TrainConfig(epochs=8, lr=1e-3, optimizer="adamw", schedule="cosine", weight_decay=0.01),
}
MIN_GAIN, SIGNIFICANT = 0.01, 0.05
NEEDED = 4
"""Pairs in which fine-tuning is better that a prediction must find to beat always answering "no" with p < 0.1."""


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
    """The default head: its test accuracy, and the images that it predicts wrongly."""
    path = extract_clean(pair, work)
    fit = fit_head(path, path.with_name("head"))
    samples = FeatureCache.open(path).samples
    images = {split: len(samples.rows(split)) for split in ("train", "val", "test")}
    wrong = wrong_images(path.with_name("head"))
    head = 1 - len(wrong) / images["test"]
    return {"images": images, "head": head, "kind": fit.name, "layers": fit.layers, "head_wrong": wrong}


def measure_finetuning(pair: dict[str, Any], work: Path) -> dict[str, Any]:
    """The recipe that was better on val: its test accuracy, and the images that it predicts wrongly."""
    data, folder, shared = prepare(pair, work)
    augment = "tutorial" if pair["set"].startswith("ants") else "crop"
    live = {"precision": "auto", "image_cache": folder / "images.h5", "augment": augment, "resume": True}
    finetune(data, folder / pair["recipe"], config=RECIPES[pair["recipe"]], **live, **shared)
    wrong = wrong_images(folder / pair["recipe"])
    return {"tuned": 1 - len(wrong) / pair["images"]["test"], "tuned_wrong": wrong}


def wrong_images(model: Path) -> list[str]:
    """The test images that a saved model predicts wrongly."""
    return [row.image for row in read_predictions(model, TEST) if not row.right]


def compare(pair: dict[str, Any]) -> dict[str, Any]:
    """The gain of fine-tuning, McNemar's two-sided p or its lower bound; whether it could be significantly better."""
    gain = pair["tuned"] - pair["head"]
    one, other = 0, abs(round(gain * pair["images"]["test"]))
    if "tuned_wrong" in pair:
        head, tuned = set(pair["head_wrong"]), set(pair["tuned_wrong"])
        one, other = len(tuned - head), len(head - tuned)
    p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
    return {
        "gain": gain,
        "p": p,
        "p_is_exact": "tuned_wrong" in pair,
        "could_be_better": gain >= MIN_GAIN and p < SIGNIFICANT,
    }


def page(figures: dict[str, Any]) -> str:
    """The table of all pairs as Markdown."""
    pairs = sorted(figures["pairs"], key=lambda pair: -pair["gain"])
    n, at_least, tuned_better = len(pairs), figures["head at least as accurate"], figures["could be better"]
    rule, needed = figures["former rule"], "enough" if tuned_better >= NEEDED else "not enough"
    lines = [
        "# Is fine-tuning better than the default head?",
        "",
        "The default head (`extract --views 0`, `fit-head`) is at least as accurate as fine-tuning on "
        f"{at_least} of {n} pairs of a data set and a network. Fine-tuning could be significantly "
        f"better on {tuned_better}: it gains a point or more, and McNemar's p is, or can be, below {SIGNIFICANT:g}. "
        f'That is {needed} for a prediction that beats always answering "no" with p < 0.1, which needs {NEEDED}.',
        "",
        "Test accuracy at 96 pixels, one seed. Fine-tuning: the better of two recipes of 8 epochs on val. The labels "
        f"of coins are random. The former rule of `featcache forecast` was right for {rule['right']} of {n} pairs "
        "against the former default head (linear, penultimate layer), and always answering "
        f'"no" for {rule["always no"]}. Written by benchmarks/fine_tuning.py; heads of commit '
        f"{figures['versions']['commit']}, fine-tuning of commit {figures['fine_tuning_versions']['commit']}; where p "
        "is exact, the better recipe was repeated later.",
        "",
        "| set | backbone | weights | test images | default head | fine-tuning | gain | p | could be better |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        cells = [pair["set"], pair["network"], pair["weights"], str(pair["images"]["test"])]
        cells += [f"{pair['head']:.3f}", f"{pair['tuned']:.3f}", f"{100 * pair['gain']:+.1f} points"]
        cells += [
            f"{'' if pair['p_is_exact'] else 'at least '}{pair['p']:.2g}",
            "yes" if pair["could_be_better"] else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse options, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("demo/fine-tuning"), help="folder for caches and models")
    parser.add_argument(
        "--finetune", nargs="*", default=[], help="pairs to fine-tune again: names of folders in --work"
    )
    options = parser.parse_args()
    results = record.RESULTS / "fine_tuning.json"
    figures, measured = json.loads(results.read_text()), record.commit()
    for number, pair in enumerate(figures["pairs"]):
        pair = {**pair, **measure_head(pair, options.work)}
        if prepare(pair, options.work)[1].name in options.finetune:
            pair |= {**measure_finetuning(pair, options.work), "fine_tuning_commit": measured}
        figures["pairs"][number] = pair = {**pair, **compare(pair)}
        print(pair["set"], pair["network"], f"{pair['head']:.4f} {pair['tuned']:.4f}", file=sys.stderr, flush=True)
    figures["could be better"] = sum(pair["could_be_better"] for pair in figures["pairs"])
    figures["head at least as accurate"] = sum(pair["gain"] <= 0 for pair in figures["pairs"])
    record.write("fine_tuning", figures, measured)
    results.with_suffix(".md").write_text(page(json.loads(results.read_text())))


if __name__ == "__main__":
    main()
