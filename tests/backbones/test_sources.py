"""A source of networks is one object; another package adds one by an entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from commands import in_process, write_folder
from featcache.backbones.load import load_backbone, load_backbone_of
from featcache.backbones.metadata_cache import cache_path, metadata_path
from featcache.backbones.sources import registry
from featcache.backbones.sources.registry import SOURCES, check_name, find_source
from featcache.errors import BackboneError
from featcache.extraction.extract import extract
from toys import toy_answer

SOURCE = """
from featcache.backbones.sources.base import BackboneSource, BuiltNetwork


class ToySource(BackboneSource):
    hint = "toys/<model>"
    prefix = "toys/"

    def names(self):
        return ["toys/means", "toys/medians"]

    def build(self, name, weights, image_size):
        from toys import TOY_MEAN, TOY_STD, ToyNet

        values = {"image_size": 8, "resize_size": 10, "interpolation": "bilinear", "mean": TOY_MEAN, "std": TOY_STD}
        return BuiltNetwork(ToyNet(), values)


SOURCE = ToySource()
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, one of which adds the source "toys"."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "toy_networks.py").write_text(SOURCE)
    info = folder / "toy_networks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[featcache.backbones]\ntoys = toy_networks:SOURCE\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield folder
    SOURCES._entries.pop("toys", None)
    sys.modules.pop("toy_networks", None)


def test_a_source_of_another_package_is_loaded_by_its_name(site: Path, tmp_path: Path) -> None:
    check_name("toys/means")
    backbone = load_backbone("toys/means", weights="none", device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(backbone.embed(pixels), toy_answer(pixels), rtol=1e-5, atol=1e-5)
    data = write_folder(tmp_path / "data", {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    options = {"weights": "none", "device": "cpu", "precision": "fp32", "views": 1}
    cache = extract(data, tmp_path / "c.h5", backbone="toys/means", **options).cache
    assert (cache.spec.backbone, cache.spec.weights_sha256) == ("toys/means", backbone.weights_sha256)
    assert cache.features("train").x.shape[-1] == 3
    settings = {"weights": "none", "layers": ("penultimate",), "device": "cpu", "precision": "fp32"}
    assert load_backbone_of(cache.spec, cache.path, **settings).weights_sha256 == backbone.weights_sha256


def test_the_networks_of_another_package_are_suggested(site: Path) -> None:
    with pytest.raises(BackboneError) as error:
        check_name("tois/means")
    assert str(error.value) == (
        "there is no backbone 'tois/means'; close: toys/means. Use efficientnet_lite0 (embedded), a torchvision model "
        "such as resnet18, timm/<model>, or toys/<model>."
    )


def test_a_package_that_cannot_be_loaded_hinders_only_its_own_networks(site: Path) -> None:
    (site / "toy_networks.py").write_text("raise RuntimeError('no GPU')\n")
    with pytest.raises(BackboneError, match=r"^there is no backbone 'resnet19'; close: resnet18, .*or timm/<model>\.$"):
        check_name("resnet19")
    with pytest.raises(BackboneError, match=r"toys' of the package toy-networks cannot be loaded .* no GPU\."):
        load_backbone("toys/means", weights="none", device="cpu")


def test_what_a_source_does_not_say_has_a_default(site: Path) -> None:
    assert registry.preprocessing("toys/means", "none") is None
    assert registry.linear_classifiers("toys/means") == []
    assert registry.is_named("toys/means")
    module = registry.build("toys/means", "none", 0).module
    assert not registry.differs_in_size("toys/means", module)


def test_metadata_of_a_source_depends_on_its_code(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache.backbones import metadata_cache

    monkeypatch.setattr(metadata_cache, "_versions", metadata_cache._versions.__wrapped__)
    first = metadata_path("toys/means", "none", ["penultimate"], 0)
    assert first == metadata_path("toys/means", "none", ["penultimate"], 0)
    (site / "toy_networks.py").write_text(f"{SOURCE}# edited\n")
    assert metadata_path("toys/means", "none", ["penultimate"], 0) != first
    assert cache_path(".json", find_source("toys/means")) != cache_path(".json", find_source("resnet18"))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("efficientnet_lite0", "efficientnet_lite0"),
        ("resnet18", "torchvision"),
        ("timm/resnet18", "timm"),
        ("timm/hf-hub:user/network", "timm"),
        ("timm", None),
        ("torchvision", None),
        ("torchvision/resnet18", None),
        ("module:factory", None),
        ("toys/means", None),
        ("", None),
    ],
)
def test_the_source_of_a_name(name: str, key: str | None) -> None:
    assert find_source(name) is (None if key is None else SOURCES.get(key))


def test_finding_a_source_imports_no_library() -> None:
    ran = in_process(
        "import sys\n"
        "from featcache.backbones.sources.registry import find_source\n"
        "for name in ('efficientnet_lite0', 'resnet18', 'timm/resnet18', 'nothing'):\n"
        "    find_source(name)\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'sklearn', 'openvino'} & set(sys.modules)))\n"
    )
    assert ran.stdout == "[]\n", ran.stderr
