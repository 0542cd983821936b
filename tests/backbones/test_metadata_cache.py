"""A network that an earlier run built is not built again."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import in_process
from featcache.backbones import devices, metadata_cache
from featcache.backbones.devices import resolve_device
from featcache.backbones.engines import base as engines
from featcache.backbones.load import load_backbone
from featcache.backbones.metadata_cache import BackboneMetadata, load_metadata, metadata_path, store_metadata
from featcache.backbones.sources import registry
from featcache.backbones.sources.base import BackboneSource
from featcache.cache.feature_cache import FeatureCache
from featcache.errors import BackboneError
from featcache.extraction.extract import extract
from featcache.heads.fit_head import fit_head
from featcache.models.classifier import Classifier
from registries import restore

NETWORK = {"weights": "none", "device": "cpu", "precision": "fp32", "lazy": True}
KNOWN = BackboneMetadata(
    "0" * 64,
    {"penultimate": 3},
    {"image_size": 8, "resize_size": 8, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]},
)
STRANGE = [
    json.dumps({"weights_sha256": "0" * 64, "dims": dims, "preprocessing": preprocessing})
    for dims, preprocessing in (({"penultimate": 3}, None), ({"penultimate": "3"}, KNOWN.preprocessing), ([], {}))
]
needs_openvino = pytest.mark.skipif(not engines.has_openvino(), reason="OpenVINO has no wheel for this machine")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "featcache" / "networks"


def test_what_was_learnt_is_what_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_backbone("squeezenet1_1", **NETWORK)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = first.embed(pixels)
    builds = []
    build = registry.build
    monkeypatch.setattr(registry, "build", lambda *args: builds.append(args) or build(*args))
    second = load_backbone("squeezenet1_1", **NETWORK)
    for name in ("weights_sha256", "dims", "mean", "std", "image_size", "resize_size", "interpolation", "layers"):
        assert getattr(second, name) == getattr(first, name)
    assert second.extract_spec(image_size=None, augment="crop", seed=1, views=2, dtype="float32") == first.extract_spec(
        image_size=None, augment="crop", seed=1, views=2, dtype="float32"
    )
    assert builds == []
    np.testing.assert_array_equal(second.embed(pixels), expected)
    assert builds == [("squeezenet1_1", "none", 0, None)]


def test_only_who_asks_for_it_gets_a_lazy_network(monkeypatch: pytest.MonkeyPatch) -> None:
    load_backbone("squeezenet1_1", **NETWORK)
    monkeypatch.setattr(registry, "build", lambda *_: 1 / 0)
    load_backbone("squeezenet1_1", **NETWORK)
    with pytest.raises(ZeroDivisionError):
        load_backbone("squeezenet1_1", weights="none", device="cpu")


def test_weights_that_are_others_than_an_earlier_run_saw_are_refused(home: Path) -> None:
    load_backbone("squeezenet1_1", **NETWORK)
    (path,) = home.glob("*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "weights_sha256": "0" * 64}))
    changed = load_backbone("squeezenet1_1", **NETWORK)
    with pytest.raises(BackboneError, match=r" has weights .* an earlier run saw 000000000000\.\.\. under "):
        changed.embed(np.zeros((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"weights_sha256": 3}', *STRANGE])
def test_a_damaged_record_is_no_obstacle(content: str, home: Path) -> None:
    expected = load_backbone("squeezenet1_1", **NETWORK).weights_sha256
    (path,) = home.glob("*.json")
    whole = path.read_text()
    path.write_text(content)
    assert load_backbone("squeezenet1_1", **NETWORK).weights_sha256 == expected
    assert path.read_text() == whole


def test_all_that_decides_a_network_is_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "a.pth", tmp_path / "b.pth"
    file.write_bytes(b"1")
    other.write_bytes(b"2")
    paths = [
        metadata_path("a", "pretrained", ["x"], 0),
        metadata_path("b", "pretrained", ["x"], 0),
        metadata_path("a", "pretrained", ["y"], 0),
        metadata_path("a", "none", ["x"], 0),
        metadata_path("a", "none", ["x"], 1),
        metadata_path("a", str(file), ["x"], 0),
        metadata_path("a", str(other), ["x"], 0),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(metadata_cache.importlib.metadata, "version", lambda package: "0.0.1")
        patch.setattr(metadata_cache, "_versions", metadata_cache._versions.__wrapped__)
        paths.append(metadata_path("a", "pretrained", ["x"], 0))
    assert len(set(paths)) == len(paths)
    other.write_bytes(b"1")
    assert metadata_path("a", str(other), ["x"], 0) == metadata_path("a", str(file), ["x"], 0)
    assert metadata_path("a", str(tmp_path / "none.pth"), ["x"], 0) is None


def test_all_code_that_decides_a_network_is_in_the_name() -> None:
    """Every module that the room imports, except helpers that do not decide what a network computes."""
    package = Path(metadata_cache.__file__).parents[1]
    files = set(metadata_cache.code_files())
    imported = set()
    for path in (package / "backbones").rglob("*.py"):
        assert path in files
        nodes = list(ast.walk(ast.parse(path.read_text())))
        for_types = [node for node in nodes if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
        never_run = {part for node in for_types for part in ast.walk(node)}
        for node in nodes:
            is_ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("featcache.")
            if is_ours and node not in never_run:
                imported.add(node.module)
    helpers = {"featcache._utils", "featcache.errors"}
    for module in sorted(name for name in imported if ".".join(name.split(".")[:2]) not in helpers):
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert Path(str(spec.origin)) in files, module
    assert "featcache.core.layer_names" in imported


def test_an_edited_module_changes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_cache, "code_sha256", metadata_cache.code_sha256.__wrapped__)
    files = metadata_cache.code_files()
    before = metadata_path("resnet18", "pretrained", ["x"], 0)
    assert metadata_path("resnet18", "pretrained", ["x"], 0) == before
    for number, path in enumerate(files):
        edited = tmp_path / path.name
        edited.write_bytes(path.read_bytes() + b"#")
        changed = [*files[:number], edited, *files[number + 1 :]]
        monkeypatch.setattr(metadata_cache, "code_files", lambda changed=changed: changed)
        assert metadata_path("resnet18", "pretrained", ["x"], 0) != before


def test_a_source_whose_code_is_in_no_file_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that a notebook defines: its code may change under the same name."""
    restore(monkeypatch, registry.SOURCES)
    names: dict[str, object] = {"__name__": "notebook", "BackboneSource": BackboneSource}
    exec("class OwnSource(BackboneSource):\n    def owns(self, name): return name == 'own/1'", names)
    source = names["OwnSource"]
    assert isinstance(source, type)
    registry.SOURCES.register("own", source())
    assert metadata_path("own/1", "pretrained", ("penultimate",), 0) is None
    assert metadata_path("resnet18", "pretrained", ("penultimate",), 0) is not None


def test_what_is_remembered_is_recalled(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    store_metadata(path, KNOWN)
    assert load_metadata(path) == KNOWN
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    assert load_metadata(None) is None
    store_metadata(None, KNOWN)


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store_metadata(tmp_path / "file" / "a.json", KNOWN)
    assert load_metadata(tmp_path / "file" / "a.json") is None


AGAIN = """
import sys
from featcache import extract
done = extract(sys.argv[1], sys.argv[2], backbone="squeezenet1_1", weights="none", device="cpu", views=1, image_size=64)
print(done.cache.provenance["engine"], sorted({"torchvision", "timm", "sklearn"} & set(sys.modules)))
"""


@needs_openvino
def test_an_extraction_that_is_not_the_first_builds_no_network(split_folder: Path, tmp_path: Path) -> None:
    options = {"backbone": "squeezenet1_1", "weights": "none", "device": "cpu", "views": 1, "image_size": 64}
    first = extract(split_folder, tmp_path / "a.h5", engine="openvino", **options).cache
    process = in_process(AGAIN, split_folder, tmp_path / "b.h5")
    assert process.stdout == "openvino []\n", process.stderr
    second = FeatureCache.open(tmp_path / "b.h5")
    assert second.spec == first.spec
    np.testing.assert_array_equal(second.features("train").x, first.features("train").x)


@needs_openvino
def test_predicting_builds_no_network_either(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"backbone": "squeezenet1_1", "weights": "none", "device": "cpu", "views": 1, "image_size": 64}
    cache = extract(split_folder, tmp_path / "a.h5", engine="openvino", **options).cache
    fit_head(cache, tmp_path / "head")
    monkeypatch.setattr(registry, "build", lambda *_: 1 / 0)
    classifier = Classifier.load(tmp_path / "head", device="cpu")
    assert classifier.backbone.engine == "openvino"
    rows = cache.samples.rows("val")
    predictions = classifier.predict([split_folder / cache.samples.ids[row] for row in rows])
    expected = [cache.samples.classes[label] for label in cache.samples.labels[rows]]
    assert [prediction.label for prediction in predictions] == expected


def test_pytorch_is_asked_for_a_gpu_where_one_is_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for likely, expected in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(devices, "_accelerator_is_likely", lambda answer=likely: answer)
        assert resolve_device("auto") == expected


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_pytorch_is_asked(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.sys, "platform", platform)
    assert devices._accelerator_is_likely()


def test_on_linux_a_gpu_has_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    exists: Callable[[str], bool]
    monkeypatch.setattr(devices.sys, "platform", "linux")
    for exists, expected in ((lambda path: path == "/dev/nvidia0", True), (lambda path: False, False)):
        monkeypatch.setattr(devices.os.path, "exists", exists)
        assert devices._accelerator_is_likely() is expected
