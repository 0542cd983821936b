"""An export format of another package: found by its entry point, written by `export` and by the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import done, featcache_cli
from featcache.backbones.load import load_backbone
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, MissingExtraError
from featcache.heads.io import save_head
from featcache.heads.linear import LinearHead
from featcache.models.export.export import export
from featcache.models.export.registry import EXPORT_FORMATS

TOY_FORMAT = '''
"""A TorchScript file: ten lines beside the imports."""
import torch

from featcache.models.export.graph import graph_module
from featcache.models.export.registry import ExampleCode, ExportFormat

PREDICT = """model = torch.jit.load(MODEL)
logits, probabilities = model(torch.from_numpy(pixels))
"""


def write(saved, last, path):
    module, example = graph_module(saved, last)
    torch.jit.save(torch.jit.trace(module, example), path)
    return ExampleCode("import torch", PREDICT)


FORMAT = ExportFormat(write, packages=("torch",), notes=lambda: ("written by the toy format",))
MISSING = ExportFormat(write, packages=("package_that_does_not_exist",))
'''


@pytest.fixture
def toy_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that adds the formats torchscript and missing."""
    site = tmp_path / "site"
    info = site / "toy_format-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_format.py").write_text(TOY_FORMAT)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-format\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[featcache.exports]\ntorchscript = toy_format:FORMAT\nmissing = toy_format:MISSING\n"
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "toy_format", raising=False)
    EXPORT_FORMATS.names()
    monkeypatch.setattr(EXPORT_FORMATS, "_entries", dict(EXPORT_FORMATS._entries))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved head on a backbone with random weights."""
    backbone = load_backbone("timm/test_resnet", weights="none", device="cpu", precision="fp32")
    rng = np.random.default_rng(0)
    head = LinearHead.from_weights(rng.normal(size=(3, backbone.dim)), rng.normal(size=3), np.arange(3))
    name, content = save_head(head)
    spec = backbone.extract_spec(image_size=32, augment="none", seed=0, views=0, dtype="float32")
    folder = tmp_path / "model"
    folder.mkdir()
    card = ModelCard("head", name, "linear", ("ants", "bees", "wasps"), spec, "none", backbone.main_layer, {}, False)
    card.write(folder, content)
    return folder


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("toy_format")
def test_export_writes_a_format_of_another_package(model: Path, tmp_path: Path) -> None:
    assert EXPORT_FORMATS.names() == ["onnx", "state-dict", "torch-export", "missing", "torchscript"]
    exported = export(model, tmp_path / "toy.pt", "torchscript")
    assert (exported.format, exported.notes) == ("torchscript", ("written by the toy format",))
    assert exported.difference < 1e-4
    logits, _ = torch.jit.load(exported.path)(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert logits.shape == (2, 3)
    assert "model = torch.jit.load(MODEL)" in exported.program.read_text()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.usefixtures("toy_format")
def test_the_command_writes_a_format_of_another_package(model: Path, tmp_path: Path) -> None:
    assert "[onnx|state-dict|torch-export|missing|torchscript|npz|parquet]" in done("export", "--help")
    result = featcache_cli("export", model, "--format", "torchscript", "-o", tmp_path / "toy.pt")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'toy.pt'}: torchscript, ")
    assert "\nwritten by the toy format\n" in result.stdout


@pytest.mark.usefixtures("toy_format")
def test_a_missing_package_of_such_a_format_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError) as error:
        export(model, tmp_path / "toy.pt", "missing")
    assert str(error.value) == (
        "the export format missing needs package_that_does_not_exist, which is not installed. Install it."
    )


def test_an_unknown_format_is_refused_with_the_names_that_exist(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        export(model, tmp_path / "toy.pt", "onx")
    assert str(error.value) == (
        "there is no export format 'onx'; there are: onnx, state-dict, torch-export. Did you mean onnx?"
    )
