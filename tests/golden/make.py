"""Write formats-1.tar.xz: a file of each kind that featcache keeps, and what each said when it was written.

It is run once for each version of a format, and not again: what it wrote must be read by every later version.

    python tests/golden/make.py      # in the repository's root, with PYTHONPATH=.:cli:tests/helpers
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from commands import COUNTS, write_folder
from featcache.backbones.backbone import Backbone
from featcache.extraction.extract import extract
from featcache.finetuning.finetune import finetune
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from featcache.training.loop import TrainConfig
from several import write_pictures
from toys import random_image
from trainable import staged_backbone, trainable_backbone

LAYERS = ("penultimate", "blocks.0:max", "blocks.1", "blocks.1:grid2")
HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "linear-mean": {"head": "linear", "use_views": "mean"},
    "sgd": {"parameters": {"epochs": 3, "lr": 0.05}},
    "centroid": {},
    "ridge": {},
    "lda": {},
    "knn": {"parameters": {"n_neighbors": 3}},
    "svm": {"calibrate": True, "scaling": "standard"},
    "logreg": {},
    "layers": {"head": "linear", "layer": "all"},
    "head2toe": {"layer": "all"},
    "attention": {"layer": "blocks.1:grid2"},
}


def layered() -> Backbone:
    """The staged network, with what its stages give."""
    plain = staged_backbone()
    return Backbone(plain.module, name="staged", image_size=16, resize_size=18, layers=LAYERS)


def pictures() -> list[np.ndarray[Any, Any]]:
    """Six that are in no data set, as arrays: how a picture is compressed may change, its pixels do not."""
    return [np.asarray(random_image(500 + number, tint=number % 3)) for number in range(6)]


def answers(model: Path, backbone: Backbone) -> list[dict[str, Any]]:
    """What a model says of them."""
    classifier = Classifier.load(model, backbone=backbone, device="cpu")
    return [{"label": one.label, "top": [list(pair) for pair in one.top]} for one in classifier.predict(pictures())]


def main() -> None:
    """Write the archive beside this file."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "formats-1")
        photos, colours = write_folder(root / "photos", COUNTS), root / "colours"
        write_pictures(colours)
        said: dict[str, Any] = {"caches": {}, "models": {}}
        options: dict[str, Any] = {"views": 2, "augment": "tutorial", "seed": 11, "workers": 1, "batch_size": 4}
        caches = {
            "one-layer": extract(photos, root / "one-layer.h5", backbone=staged_backbone(), **options).cache,
            "several-layers": extract(photos, root / "several-layers.h5", backbone=layered(), **options).cache,
            "several-labels": extract(
                colours / "list.csv", root / "several-labels.h5", backbone=staged_backbone(), dtype="float32", **options
            ).cache,
        }
        for name, cache in caches.items():
            features = {
                layer: [
                    float(np.asarray(cache.features(split, layer).x, np.float64).sum()) for split in ("train", "val")
                ]
                for layer in cache.spec.layers
            }
            said["caches"][name] = {
                "digest": cache.spec.digest(),
                "samples": cache.samples.digest(),
                "classes": list(cache.samples.classes),
                "sums": features,
            }
        for name, given in HEADS.items():
            of = "several-layers" if "layer" in given else "one-layer"
            model = root / "heads" / name
            fit_head(caches[of], model, **{"head": name, **given})
            said["models"][f"heads/{name}"] = answers(model, layered() if "layer" in given else staged_backbone())
        fit_head(caches["several-labels"], root / "heads/several-labels", head="linear", thresholds="f1")
        fit_head(caches["several-labels"], root / "heads/several-labels-bayes", head="sklearn.naive_bayes.GaussianNB")
        for name in ("several-labels", "several-labels-bayes"):
            said["models"][f"heads/{name}"] = answers(root / "heads" / name, staged_backbone())
        recipe = TrainConfig(epochs=2, batch_size=4, lr=0.02)
        for mode in ("all", "head"):
            finetune(
                photos, root / f"runs/{mode}", backbone=trainable_backbone(), config=recipe, mode=mode, workers=1,
                image_cache=root / "images.h5" if mode == "all" else None,
            )  # fmt: skip
            said["models"][f"runs/{mode}"] = answers(root / f"runs/{mode}", trainable_backbone())
        (root / "said.json").write_text(json.dumps(said, indent=1) + "\n")
        with tarfile.open(Path(__file__).with_name("formats-1.tar.xz"), "w:xz") as archive:
            archive.add(root, "formats-1", filter=_plain)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without whose file it was, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
