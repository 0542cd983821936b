"""The kinds of files that `fuzz.py` damages: functions that create valid files, and functions that read them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mutations import damage, damage_csv, damage_json, damage_json_lines
from PIL import Image
from torch import nn

from featcache import extract, finetune, fit_head, verify
from featcache._utils.locks import LockFile
from featcache.analysis.benchmark.compare import _claim
from featcache.analysis.benchmark.runner import BenchmarkRunner
from featcache.backbones import metadata_cache
from featcache.backbones.backbone import Backbone
from featcache.backbones.engines import openvino_files as conversion
from featcache.backbones.weights.adapt import adapt
from featcache.backbones.weights.checkpoint import read_checkpoint
from featcache.cache.feature_cache import FeatureCache
from featcache.cache.features import TrainingMatrix
from featcache.cache.format.container import write_header
from featcache.cache.format.layout import CACHE
from featcache.cache.writer import CacheWriter
from featcache.core.model_card import CHECKPOINT, prepare_folder
from featcache.core.samples import Samples
from featcache.core.specs import ExtractSpec, ViewSpec
from featcache.data.manifest import read_manifest
from featcache.errors import CacheDamagedError, UnreadableImageError
from featcache.heads.estimators import fit_estimator, make_estimator
from featcache.heads.io import load_head, save_head
from featcache.heads.predict import classify
from featcache.heads.registry import find_head, heads_with
from featcache.metrics.predictions import compare_heads, read_predictions
from featcache.models.load import open_model
from featcache.reports.model_figures import confusion_figure, curve_figure, history_figure, reliability_figure
from featcache.training.checkpoint import load_checkpoint, load_config
from featcache.training.config import TrainConfig
from featcache.vision.decode import decode_and_check
from featcache.vision.image_cache import ImageCache
from featcache.vision.image_files import upright_size

_NUMBERS = [-1, 0, 1, 2, 3, 7, 1000, 10**9, 2**31 - 1, 2**31, 2**63 - 1]

Mutate = Callable[[bytes, list[bytes], Random], bytes]


@dataclass
class Target:
    """A file that is damaged and read.

    path : of the file.
    whole : its valid bytes.
    use : reads it; its results are compared.
    sealed : whether a damaged file that opens must give the values of the valid file. Otherwise the format has no
        checksum, or not for all bytes.
    others : valid files of the kind; parts of them are inserted.
    same : compares the values of a sealed file with those of the valid one.
    refused : whether the valid file is rejected, because it would run code.
    """

    path: Path
    whole: bytes
    use: Callable[[], Any]
    sealed: bool = False
    mutate: Mutate = damage
    others: list[bytes] = field(default_factory=list)
    same: Callable[[Any, Any], bool] = lambda value, expected: value == expected
    refused: bool = False


Make = Callable[[Path], list[Target]]


def of_file(path: Path, use: Callable[[], Any], **more: Any) -> Target:
    """A target for an existing file."""
    return Target(path, path.read_bytes(), use, **more)


class Net(nn.Module):
    """A convolution and a mean: 4 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


@cache
def backbone() -> Backbone:
    """The same backbone in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Backbone(Net().eval(), name="net", image_size=8, resize_size=10)


def picture(seed: int) -> Image.Image:
    """Noise in one of two tints."""
    pixels = np.random.default_rng(seed).integers(0, 120, (12, 14, 3))
    pixels[..., seed % 2] += 90
    return Image.fromarray(pixels.astype(np.uint8))


def photos(folder: Path) -> Path:
    """A folder of 16 training and 8 val images of two classes."""
    for number in range(24):
        target = folder / ("train" if number < 16 else "val") / f"class {number % 2}"
        target.mkdir(parents=True, exist_ok=True)
        picture(number).save(target / f"{number}.png")
    return folder


def write_cache(path: Path, done: bool = True, views: int = 2) -> None:
    """40 rows, K views, d = 8. An unfinished cache lacks 10 rows."""
    rng, n = np.random.default_rng(views), 40
    samples = Samples(
        tuple(f"class {row % 2}/{row}.jpg" for row in range(n)),
        np.arange(n) % 2,
        np.repeat([0, 1], [30, 10]).astype(np.uint8),
        np.random.default_rng(1).integers(0, 256, (n, 32), dtype=np.uint8),
        ("ants", "bees"),
    )
    spec = ExtractSpec("none", "0" * 64, ViewSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), views=views)
    with CacheWriter(path, spec, samples, {"penultimate": 8}, {"weights": "none"}) as writer:
        writer.write(np.arange(30), {"penultimate": rng.normal(size=(30, 1 + views, 8))})
        if done:
            writer.write(np.arange(30, 39), {"penultimate": rng.normal(size=(9, 1, 8))})
            writer.finish({39: "it is empty"})


def read_cache(path: Path) -> Any:
    """Read everything that affects a result. Raises CacheError."""
    cache = FeatureCache.open(path)
    if not (verification := verify(path)).ok:
        raise CacheDamagedError(str(verification))
    fit_head(path)
    parts = [cache.features(split) for split in ("train", "val")]
    features = [[part.lazy_view(view)[:].tobytes() for view in range(part.views)] for part in parts]
    samples = cache.samples
    arrays = [array.tobytes() for array in (samples.labels, samples.split, samples.sha256)]
    return cache.spec, samples.ids, samples.classes, arrays, features


def caches(folder: Path) -> list[Target]:
    """Finished caches."""
    path, other = folder / "cache.h5", folder / "other.h5"
    write_cache(path)
    write_cache(other, views=1)
    return [of_file(path, lambda: read_cache(path), sealed=True, others=[other.read_bytes()])]


def resealed_caches(folder: Path) -> list[Target]:
    """Malicious caches: the header matches the changed content."""
    path = folder / "cache.h5"
    write_cache(path)

    def mutate(whole: bytes, others: list[bytes], chance: Random) -> bytes:
        raw = damage(whole, others, chance)
        path.write_bytes(raw)
        try:
            first, second, _ = raw.split(b"\n", 2)
            header, body = int(first.split()[2]), json.loads(second)
            with path.open("r+b") as file:
                write_header(file, CACHE, header, {"size": len(raw), "arrays": body["arrays"]})
        except Exception:  # the header itself is damaged
            return raw
        return path.read_bytes()

    return [of_file(path, lambda: read_cache(path), mutate=mutate)]


def partial_caches(folder: Path) -> list[Target]:
    """Unfinished caches, which are opened and continued. Rows that count as done must be the rows that were written."""
    final, path = folder / "cache.h5", folder / "cache.h5.partial"
    write_cache(final, done=False)

    def use() -> Any:
        FeatureCache.open(path, partial=True)
        whole = FeatureCache.open(path, partial=True)
        samples, spec = whole.samples, whole.spec
        with CacheWriter(final, spec, samples, whole.dims, {"weights": "none"}) as writer:
            done = writer.done
        layer = whole.layout.layers["penultimate"].view(whole.layout.data)
        rows = {int(row): (int(done[row]), layer[row].tobytes()) for row in np.flatnonzero(done)}
        return spec, samples.ids, samples.labels.tobytes(), rows

    def same(value: Any, expected: Any) -> bool:
        return value[:3] == expected[:3] and all(
            expected[3].get(row) == row_value for row, row_value in value[3].items()
        )

    return [of_file(path, use, sealed=True, same=same)]


@dataclass
class Models:
    """Folders of a fitted head and a fine-tuned network, and their inputs."""

    data: Path
    head: Path
    network: Path

    @classmethod
    def made(cls, folder: Path) -> Models:
        """Create the files in a folder."""
        data, cache = photos(folder / "photos"), folder / "cache.h5"
        extract(data, cache, backbone=backbone(), views=1, workers=1)
        fit_head(cache, out=folder / "head")
        finetune(data, folder / "network", backbone=backbone(), config=_recipe(2), workers=1)
        return cls(data, folder / "head", folder / "network")


def _recipe(epochs: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, batch_size=8, lr=0.01)


def read_model(folder: Path) -> Any:
    """Everything that a model uses to predict."""
    model = open_model(folder, backbone=backbone(), device="cpu")
    if isinstance(model.model, nn.Module):
        weights = [value.numpy().tobytes() for value in model.model.state_dict().values()]
    else:
        weights = [model.model.coef_.tobytes(), model.model.intercept_.tobytes()]
    return model.card.classes, model.card.spec, weights


def cards(folder: Path) -> list[Target]:
    """model.json: only its preprocessing has a hash, names and figures have none."""
    models = Models.made(folder)

    def use(path: Path) -> Any:
        model_values = read_model(path)
        confusion_figure(path)
        reliability_figure(path)
        compare_heads(path, path)
        return model_values

    files = [models.head / "model.json", models.network / "model.json"]
    texts = [file.read_bytes() for file in files]
    return [of_file(file, lambda file=file: use(file.parent), mutate=damage_json, others=texts) for file in files]


def sealed_model_files(folder: Path) -> list[Target]:
    """Weights and predictions with hashes in model.json."""
    models = Models.made(folder)
    reads = {"val.csv": read_predictions}
    files = [
        models.head / "head.safetensors",
        models.head / "val.csv",
        models.network / "network.safetensors",
        models.network / "val.csv",
    ]
    return [
        of_file(file, lambda file=file: reads.get(file.name, read_model)(file.parent), sealed=True) for file in files
    ]


def _without_hashes(folder: Path) -> None:
    """Remove the hashes, as in models of the first versions."""
    card = json.loads((folder / "model.json").read_bytes())
    del card["sha256"]
    (folder / "model.json").write_text(json.dumps(card))


def old_model_files(folder: Path) -> list[Target]:
    """Weights and predictions of models of the first versions, without hashes."""
    models = Models.made(folder)
    _without_hashes(models.head)
    _without_hashes(models.network)

    def compare(place: Path) -> Any:
        rows = read_predictions(place)
        compare_heads(place, place)
        if all(row.probabilities for row in rows):
            reliability_figure(place)
        return rows

    network, predictions = models.network / "network.safetensors", models.head / "val.csv"
    return [
        of_file(network, lambda: read_model(models.network)),
        of_file(predictions, lambda: compare(models.head), mutate=damage_csv),
    ]


def reports(folder: Path) -> list[Target]:
    """run.json, which has no hash: its figures, and its text about the folder."""
    models = Models.made(folder)
    report = models.network / "run.json"

    def use() -> Any:
        figure = history_figure(models.network)
        prepare_folder(models.network, "run")
        figure()
        return figure.args[0]

    def kind() -> Any:
        (models.head / "run.json").write_bytes(report.read_bytes())
        prepare_folder(models.head, "head")
        return str(compare_heads(models.head, models.head))

    return [of_file(report, use, mutate=damage_json), of_file(report, kind, mutate=damage_json)]


def _repacked(whole: bytes, chance: Random) -> bytes:
    """A head's archive with one changed member: values of an array, its shape, or the text that names types."""
    source, target = zipfile.ZipFile(io.BytesIO(whole)), io.BytesIO()
    changed = chance.choice(source.namelist())
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = source.read(name)
            if name == changed and name.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.size and chance.random() < 0.7:
                    part = array[chance.choice(array.dtype.names)] if array.dtype.names else array
                    part.flat[chance.randrange(array.size)] = np.array(chance.choice(_NUMBERS)).astype(part.dtype)
                if chance.random() < 0.5:
                    array = np.resize(array, [chance.choice([0, 1, 2, 3, 8, 99]) for _ in array.shape])
                buffer = io.BytesIO()
                np.save(buffer, array)
                data = buffer.getvalue()
            elif name == changed:
                text = data.decode()
                pattern = chance.choice([r"-?\d+", r'"__class__": "\w+"', r'"\w+"', r"true|false|null"])
                matches = list(re.finditer(pattern, text))
                if matches:
                    destination, origin = chance.choice(matches), chance.choice(matches)
                    new = str(chance.choice(_NUMBERS)) if pattern == r"-?\d+" else origin.group()
                    text = text[: destination.start()] + new + text[destination.end() :]
                data = text.encode()
            archive.writestr(name, data)
    return target.getvalue()


def heads(folder: Path) -> list[Target]:
    """Head files of all kinds, also with a changed member in a valid archive."""
    y = np.arange(60) % 3
    x = (np.random.default_rng(0).normal(size=(60, 8)) + 3 * np.eye(3, 8)[y]).astype(np.float32)
    features = TrainingMatrix(x, y, np.arange(60), np.ones(60))
    targets = []

    def mutate(whole: bytes, others: list[bytes], chance: Random) -> bytes:
        packed = whole.startswith(b"PK") and chance.random() < 0.5
        return _repacked(whole, chance) if packed else damage(whole, others, chance)

    for number, name in enumerate([*heads_with("estimator"), "sklearn.naive_bayes.GaussianNB", "sklearn.svm.NuSVC"]):
        parameters = {"n_estimators": 3, "n_jobs": 1} if name == "forest" else {}
        estimator = make_estimator(find_head(name), parameters)
        fit_estimator(estimator, features)
        file, data = save_head(estimator)
        path = folder / str(number) / file
        path.parent.mkdir()
        path.write_bytes(data)
        use = lambda path=path: [array is not None and array.tobytes() for array in classify(load_head(path), x, 3)]  # noqa: E731
        targets.append(of_file(path, use, mutate=mutate))
    return targets


def checkpoints(folder: Path) -> list[Target]:
    """last.pt of fine-tuning, which is read and trained further. It is a zip file with a checksum for each part."""
    models = Models.made(folder)
    path = models.network / CHECKPOINT
    contents = {file: file.read_bytes() for file in models.network.iterdir() if file.is_file() and file != path}

    def use() -> Any:
        config = load_config(path)
        state, again = load_checkpoint(path)
        training = finetune(models.data, models.network, backbone=backbone(), config=_recipe(3), resume=True, workers=1)
        for file, content in contents.items():
            file.write_bytes(content)
        module = [value.numpy().tobytes() for value in state["module"].values()]
        return config == again, module, [asdict(epoch) | {"seconds": 0} for epoch in training.history]

    return [of_file(path, use)]


class Payload:
    """A pickle that creates a folder when it is loaded."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


def weights(folder: Path) -> list[Target]:
    """Weights files of users: torch's zip with a pickle (one of them would run code), the older pickle, safetensors."""
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in backbone().module.state_dict().items()}
    other = {f"module.{name}": value + 1 for name, value in state.items()}
    attack = {**state, "extra": Payload(str(folder / "executed"))}
    epoch = {"state_dict": state, "epoch": 3, "args": SimpleNamespace(lr=0.1)}
    torch.save(state, folder / "plain.pth")
    torch.save(other, folder / "other.pth")
    torch.save(attack, folder / "attack.pth")
    torch.save(epoch, folder / "epoch.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "plain.safetensors")
    (folder / "bare.pth").write_bytes(pickle.dumps(attack))
    others = [(folder / name).read_bytes() for name in ("other.pth", "attack.pth", "bare.pth")]

    def use(path: Path) -> Any:
        adapted = adapt(backbone().module, read_checkpoint(path), (), path)
        return [value.numpy().tobytes() for value in adapted.state.values()]

    return [
        of_file(path, lambda path=path: use(path), others=others, refused=path.name in ("attack.pth", "bare.pth"))
        for path in sorted(folder.iterdir())
    ]


def _listing(data: Path, **more: Any) -> Any:
    manifest = read_manifest(data, **more)
    for row in range(len(manifest.samples)):
        manifest.read(row)
    samples = manifest.samples
    return samples.ids, samples.classes, samples.labels.tobytes(), samples.split.tobytes(), samples.groups


def _rows(folder: Path) -> list[dict[str, str]]:
    return [
        {
            "path": file.relative_to(folder).as_posix(),
            "label": file.parent.name,
            "split": file.parts[-3],
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "group": f"group {file.stem}",
        }
        for file in sorted(photos(folder).rglob("*.png"))
    ]


def manifests(folder: Path) -> list[Target]:
    """CSV and JSON lines."""
    rows = _rows(folder)
    table, lines = folder / "table.csv", folder / "table.jsonl"
    table.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"skip_missing": True}
    return [
        of_file(table, lambda: _listing(table), mutate=damage_csv),
        of_file(lines, lambda: _listing(lines), mutate=damage_json_lines),
        of_file(table, lambda: _skipping(table, **options), mutate=damage_csv),
        of_file(lines, lambda: _skipping(lines, **options), mutate=damage_json_lines),
    ]


def _skipping(data: Path, **more: Any) -> Any:
    """Read a manifest whose images may be missing."""
    samples = read_manifest(data, **more).samples
    return samples.ids, samples.classes, samples.labels.tobytes(), samples.split.tobytes(), samples.groups


def parquet(folder: Path) -> list[Target]:
    """Manifests in Parquet."""
    import pyarrow
    from pyarrow import parquet as files

    rows = _rows(folder)
    names = []
    for compression in ("none", "snappy", "zstd"):
        names.append(folder / f"{compression}.parquet")
        files.write_table(pyarrow.Table.from_pylist(rows), names[-1], compression=compression, write_page_checksum=True)
    others = [name.read_bytes() for name in names]
    return [of_file(name, lambda name=name: _listing(name), others=others) for name in names]


def _data_set(folder: Path) -> Any:
    import datasets

    files = sorted(photos(folder / "photos").rglob("*.png"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [int(file.parent.name[-1]) for file in files]
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ants", "bees"])})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=kinds)


def image_parquet(folder: Path) -> list[Target]:
    """Parquet files that contain images, as on the Hub."""
    path = folder / "train.parquet"
    _data_set(folder).to_parquet(path)
    return [of_file(path, lambda: _listing(path))]


def saved_data_sets(folder: Path) -> list[Target]:
    """Files of `save_to_disk` of `datasets`: two JSON files, and Arrow."""
    import datasets

    saved = folder / "saved"
    whole = _data_set(folder)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(4))}).save_to_disk(saved)
    targets = []
    for file in sorted(saved.rglob("*.*")):
        mutate = damage_json if file.suffix == ".json" else damage
        targets.append(of_file(file, lambda: _listing(saved, allow_leak=True), mutate=mutate))
    return targets


def tars(folder: Path) -> list[Target]:
    """WebDataset, and class folders in a tar file."""
    files = sorted(photos(folder / "photos").rglob("*.png"))
    pairs, folders = folder / "pairs.tar", folder / "folders.tar"
    with tarfile.open(pairs, "w") as pair_tar, tarfile.open(folders, "w", format=tarfile.PAX_FORMAT) as folder_tar:
        for number, file in enumerate(files):
            folder_tar.add(file, file.relative_to(folder / "photos").as_posix() + "é" * (number % 3))
            fields = {"label": file.parent.name, "group": f"group {number}"}
            text = json.dumps(fields).encode() if number % 2 else file.parent.name.encode()
            for name, content in (
                (f"{number}.png", file.read_bytes()),
                (f"{number}.{('cls', 'json')[number % 2]}", text),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                pair_tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "0.png"
        pair_tar.addfile(link)
        label = tarfile.TarInfo("link.cls")
        label.size = len(b"class 0")
        pair_tar.addfile(label, io.BytesIO(b"class 0"))
    others = [pairs.read_bytes(), folders.read_bytes()]
    options = {"allow_leak": True}
    return [of_file(path, lambda path=path: _listing(path, **options), others=others) for path in (pairs, folders)]


def metadata(folder: Path) -> list[Target]:
    """Folders of images with metadata.csv or metadata.jsonl."""
    targets = []
    for kind in ("csv", "jsonl"):
        target = folder / kind
        rows = [
            {"file_name": file.relative_to(target / "train").as_posix(), "label": file.parent.name}
            for file in sorted((photos(target) / "train").rglob("*.png"))
        ]
        path = target / "train" / f"metadata.{kind}"
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines if kind == "csv" else map(json.dumps, rows)) + "\n")
        (target / "val" / f"metadata.{kind}").write_bytes(path.read_bytes())
        mutate = damage_csv if kind == "csv" else damage_json_lines
        for number in (8, 9):  # as the names in the table
            (target / "val" / f"class {number % 2}" / "0.png").write_bytes(b"")
        targets.append(of_file(path, lambda target=target: _skipping(target, skip_missing=True), mutate=mutate))
    return targets


def image_caches(folder: Path) -> list[Target]:
    """Decoded images: each is right, or it is decoded again."""
    path, manifest = folder / "images.h5", read_manifest(photos(folder / "photos"))
    hashes = [row.tobytes() for row in manifest.samples.sha256]
    images = ImageCache(path, manifest, 8)
    for row, sha256 in enumerate(hashes):
        images.keep(sha256, decode_and_check(manifest.read(row)).pixels)
    images.close()

    def use() -> Any:
        images = ImageCache(path, manifest, 8)
        try:
            cached_pixels = {sha256: images.get(sha256) for sha256 in hashes}
            for sha256 in hashes:
                images.remark(sha256)
            return {
                sha256: (pixels.shape, pixels.tobytes())
                for sha256, pixels in cached_pixels.items()
                if pixels is not None
            }
        finally:
            images.close()

    def same(value: Any, expected: Any) -> bool:
        return all(expected[sha256] == pixels for sha256, pixels in value.items())

    return [of_file(path, use, sealed=True, same=same)]


def benchmark_files(folder: Path) -> list[Target]:
    """Files that a benchmark reads again: settings.json, result.json, curves of report.json."""
    settings = {"data": "photos", "backbone": "net", "views": 4, "head": "linear", "recipe": {"epochs": 2}, "seed": 0}
    work = folder / "work" / "cached-0"
    work.mkdir(parents=True)
    result, claimed, report = work / "result.json", folder / "settings.json", folder / "report.json"
    fitted = {"seconds": {"wall": 0.5}, "wall_s": 1.5, "cpu_s": 1.0, "accuracy": {"accuracy": 0.9, "n": 10}}
    result.write_text(json.dumps([fitted, fitted]))
    (work / "foreseen.json").write_text(json.dumps({"expected": [1.0, True], "tried_s": 0.5}))
    claimed.write_text(json.dumps(settings))
    point = {"share": 0.5, "images": 8, "views": 1, "accuracies": [0.5, 0.75], "seconds": 0.1, "interval": [0.2, 0.9]}
    curve = {"over": "labels", "head": "linear", "n": 8, "points": [point, point]}
    report.write_text(json.dumps({"curves": [curve, {**curve, "over": "views"}]}))

    def spent() -> Any:
        budget = BenchmarkRunner(folder / "work", settings, ["cached"], [0], 100.0, None).budget
        return budget and budget.spent_s > 0

    def claim() -> None:
        _claim(folder, settings, overwrite=False)

    def drawn() -> Any:
        figure = curve_figure(report)
        figure()
        return str(figure.args[0])

    return [
        of_file(claimed, claim, mutate=damage_json),
        of_file(result, spent, mutate=damage_json),
        of_file(work / "foreseen.json", spent, mutate=damage_json),
        of_file(report, drawn, mutate=damage_json),
    ]


def images(folder: Path) -> list[Target]:
    """JPEG, PNG, TIFF, GIF, WebP, BMP and PPM in several modes. Only PNG has checksums; Pillow verifies them."""
    targets = []
    several = [picture(number).resize((40, 30)) for number in range(3)]
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    files: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("plain.jpg", several[0], {"exif": exif}),
        ("progressive.jpg", several[0], {"progressive": True}),
        ("cmyk.jpg", several[0].convert("CMYK"), {}),
        ("rgb.png", several[0], {}),
        ("palette.png", several[0].quantize(16), {"transparency": 3}),
        ("deep.png", deep, {}),
        ("animated.png", several[0], {"save_all": True, "append_images": several[1:]}),
        ("raw.tif", several[0], {}),
        ("deflate.tif", several[0], {"compression": "tiff_adobe_deflate"}),
        ("lzw.tif", deep, {"compression": "tiff_lzw"}),
        ("pages.tif", several[0], {"save_all": True, "append_images": several[1:]}),
        ("float.tif", Image.fromarray(np.linspace(0, 1, 1200, dtype=np.float32).reshape(30, 40)), {}),
        ("still.gif", several[0].quantize(16), {}),
        ("animated.gif", several[0], {"save_all": True, "append_images": several[1:]}),
        ("lossy.webp", several[0], {}),
        ("lossless.webp", several[0], {"lossless": True}),
        ("animated.webp", several[0], {"save_all": True, "append_images": several[1:]}),
        ("plain.bmp", several[0], {}),
        ("plain.ppm", several[0], {}),
    ]

    def use(path: Path) -> Any:
        data = path.read_bytes()
        upright_size(data)
        try:
            scaled = decode_and_check(data, value_range=(0.0, 1000.0)).remark
        except UnreadableImageError:
            scaled = ""
        white = (0.0, 1.0) if path.name == "float.tif" else None  # else it is not known
        decoded = decode_and_check(data, value_range=white)
        assert decoded.pixels.shape[2:] == (3,)
        assert decoded.pixels.dtype == np.uint8
        return scaled, decoded.remark, decoded.pixels.shape, decoded.pixels.tobytes()

    for name, image, options in files:
        image.save(folder / name, **options)
    bytes_of = {name: (folder / name).read_bytes() for name, _, _ in files}
    for name in bytes_of:
        others = [data for other, data in bytes_of.items() if other != name and other[-3:] == name[-3:]]
        targets.append(of_file(folder / name, lambda name=name: use(folder / name), others=others))
    return targets


def lock_files(folder: Path) -> list[Target]:
    """Lock files, for file systems without locks."""
    path = folder / "run.lock"
    LockFile(path).acquire()

    def use() -> Any:
        state = LockFile(path).is_held(), LockFile(path).holder()
        LockFile(path).release()
        if LockFile(path).acquire():
            LockFile(path).release()
        return state

    return [of_file(path, use, mutate=damage_json)]


def kept_networks(folder: Path) -> list[Target]:
    """Files in the cache folder: a converted network with its hash, and the metadata of a network."""
    graph = folder / "network.xml"
    parts = conversion.files(graph)
    for part in parts[:2]:
        part.write_bytes(part.name.encode() * 20)
    parts[2].write_text(conversion.hash_of(*parts[:2]))
    note = folder / "known.json"
    preprocessing = {"image_size": 224, "resize_size": 256, "interpolation": "bilinear"}
    preprocessing |= {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    metadata_cache.store_metadata(note, metadata_cache.BackboneMetadata("0" * 64, {"penultimate": 4}, preprocessing))

    def recalled() -> Any:
        metadata = metadata_cache.load_metadata(note)
        if metadata:
            Backbone(Net, name="net", metadata=metadata, **metadata.preprocessing)
        return metadata

    sound = [
        of_file(part, lambda: conversion.is_valid(graph), sealed=True, same=lambda value, _: not value)
        for part in parts
    ]
    return [*sound, of_file(note, recalled, mutate=damage_json)]


KINDS: dict[str, Make] = {
    "caches": caches,
    "caches, sealed again": resealed_caches,
    "unfinished caches": partial_caches,
    "image caches": image_caches,
    "model.json": cards,
    "files with a hash in model.json": sealed_model_files,
    "files of old models": old_model_files,
    "run.json": reports,
    "heads": heads,
    "checkpoints": checkpoints,
    "weights": weights,
    "CSV and JSON lines": manifests,
    "metadata.csv, .jsonl": metadata,
    "Parquet": parquet,
    "Parquet with images": image_parquet,
    "saved data sets": saved_data_sets,
    "tars": tars,
    "images": images,
    "benchmark files": benchmark_files,
    "lock files": lock_files,
    "kept networks": kept_networks,
}
"""Name -> function that creates the files in an empty folder."""
