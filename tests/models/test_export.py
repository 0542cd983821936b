"""Exports: what a file says without featcache is what the saved model said; one that says other things is not kept."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator
from sklearn.neighbors import KNeighborsClassifier
from torchvision.transforms import v2

from commands import write_folder
from featcache.backbones import load as backbone_loading
from featcache.backbones.backbone import Backbone
from featcache.backbones.load import load_backbone
from featcache.backbones.sources.registry import linear_classifiers
from featcache.backbones.weights.load import sha256_of
from featcache.core.model_card import ModelCard
from featcache.errors import ExportError, HeadError, MissingExtraError, OutputError, OutputExistsError
from featcache.finetuning.finetune import finetune
from featcache.heads.io import save_head
from featcache.heads.linear import LinearHead
from featcache.heads.linear_layer import CERTAIN_LOGIT, layer
from featcache.heads.one_vs_rest import OneVsRestHead
from featcache.models.classifier import Classifier
from featcache.models.export.export import MAX_DIFFERENCE, Exported, export
from featcache.models.export.inputs.image import noise_images
from featcache.models.export.registry import EXPORT_FORMATS, ExampleCode
from featcache.models.load import open_model
from featcache.training.loop import TrainConfig
from featcache.vision.augment import make_views
from featcache.vision.decode import decode
from limits import file_size_limit
from toys import toy_answer, toy_backbone

COEF, INTERCEPT = np.array([[1.0, -2, 0.5], [0, 1, 1], [-1, 0.5, 2]]), np.array([0.5, -0.25, 0])
PIXELS = np.random.default_rng(5).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def write_model(
    folder: Path, backbone: Backbone, head: BaseEstimator, classes: tuple[str, ...] = ("ants", "bees", "wasps"),
    weights: str = "none", **spec: Any,
) -> Path:  # fmt: skip
    """A saved head on a backbone."""
    name, content = save_head(head)
    view = {"image_size": None, "augment": "none", "seed": 0, "views": 0, "dtype": "float32"}
    whole = dataclasses.replace(backbone.extract_spec(**view), **spec)  # type: ignore[arg-type]
    several = isinstance(head, OneVsRestHead)
    folder.mkdir()
    ModelCard("head", name, "mine", classes, whole, weights, backbone.main_layer, {}, several).write(folder, content)
    return folder


def linear(classes: int = 3, width: int = 3, seed: int = 0) -> LinearHead:
    rng = np.random.default_rng(seed)
    return LinearHead.from_weights(rng.normal(size=(classes, width)), rng.normal(size=classes), np.arange(classes))


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """toy(head) saves a head on the toy backbone, which then can be loaded by its name."""
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda name, **options: toy_backbone())
    return lambda head, **fields: write_model(tmp_path / "model", toy_backbone(), head, **fields)


def ran(program: Path, *photos: object) -> str:
    """What the program prints that is written beside an exported file."""
    line = [sys.executable, str(program), *map(str, photos)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def load_of(program: Path) -> Callable[[Path], NDArray[np.uint8]]:
    """The function of a program that reads a photo, without the rest of it."""
    names: dict[str, Any] = {"__file__": str(program)}
    text = program.read_text()
    start, end = text.index("def load("), text.index("paths = sys.argv")
    exec("import numpy as np\nfrom PIL import Image, ImageOps\n" + text[start:end], names)
    return names["load"]


def run_onnx(path: Path, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits", "probabilities"], {"pixels": pixels})


def test_an_onnx_file_gives_the_known_answer_and_says_what_it_is(
    toy: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model, out = toy(LinearHead.from_weights(COEF, INTERCEPT, np.arange(3)), precision="bf16"), tmp_path / "toy.onnx"
    done = export(model, out, "onnx")
    assert capfd.readouterr() == ("", "")
    expected = toy_answer(PIXELS) @ COEF.T + INTERCEPT
    for count in (1, 5):
        logits, probabilities = run_onnx(out, PIXELS[:count])
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(probabilities, softmax(expected, axis=1)[:count], rtol=1e-4)
    graph = onnx.load(out)
    assert [dim.dim_param or dim.dim_value for dim in graph.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 8, 8, 3,
    ]  # fmt: skip
    assert {entry.key: entry.value for entry in graph.metadata_props} == {
        "classes": '["ants", "bees", "wasps"]',
        "several_labels": "false",
        "pixels": "RGB, uint8, (b, 8, 8, 3); mean and deviation are part of the graph, the middle of each picture, "
        "its short side resized to 10 (bilinear, antialiased)",
        "resize_size": "10",
        "image_size": "8",
        "interpolation": "bilinear",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "toy.onnx", "toy.onnx.py"]
    assert (done.path, done.format, done.size_bytes) == (out, "onnx", out.stat().st_size)
    assert 0 < done.difference < 1e-5
    assert done.notes == ("the head was fitted on features in bf16; the file computes in fp32",)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # of PyTorch 2.11's own loading
def test_a_torch_export_gives_the_known_answer(
    toy: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out = toy(LinearHead.from_weights(COEF, INTERCEPT, np.arange(3))), tmp_path / "toy.pt2"
    done = export(model, out, "torch-export")
    assert capfd.readouterr() == ("", "")
    extra = {"metadata.json": ""}
    graph = torch.export.load(out, extra_files=extra).module()
    expected = toy_answer(PIXELS) @ COEF.T + INTERCEPT
    for count in (1, 5):
        logits, probabilities = graph(torch.from_numpy(PIXELS[:count]))
        np.testing.assert_allclose(logits, expected[:count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(probabilities, softmax(expected, axis=1)[:count], rtol=1e-4)
    assert json.loads(extra["metadata.json"])["classes"] == '["ants", "bees", "wasps"]'
    assert done.notes == (f"written by PyTorch {torch.__version__}; other versions may not read it",)


def test_several_labels_have_sigmoids_and_what_train_could_not_tell_is_said(
    toy: Callable[..., Path], tmp_path: Path
) -> None:
    coef, intercept = COEF.copy(), INTERCEPT.copy()
    coef[1], intercept[1] = 0, CERTAIN_LOGIT
    model = toy(OneVsRestHead.from_weights(coef, intercept))
    done = export(model, tmp_path / "toy.onnx", "onnx")
    _, probabilities = run_onnx(done.path, PIXELS)
    np.testing.assert_allclose(probabilities, expit(toy_answer(PIXELS) @ coef.T + intercept), rtol=1e-4, atol=1e-6)
    assert done.notes == ("bees has the same logit for every image: the training data cannot tell it from the others",)
    assert done.difference < 1e-5
    Image.fromarray(PIXELS[0]).save(tmp_path / "photo.png")
    prepared = np.asarray(Image.open(tmp_path / "photo.png").resize((10, 10), Image.Resampling.BILINEAR))[1:9, 1:9]
    class_probabilities = expit(toy_answer(prepared) @ coef.T + intercept)
    named = [
        f"{name} {probability:.4f}"
        for name, probability in zip(("ants", "bees", "wasps"), class_probabilities, strict=True)
        if probability > 0.5
    ]
    assert ran(done.program, tmp_path / "photo.png") == "\t".join([str(tmp_path / "photo.png"), *named]) + "\n"


def test_a_class_that_train_lacked_stays_without_probability(toy: Callable[..., Path], tmp_path: Path) -> None:
    head = LinearHead.from_weights(COEF[:1], INTERCEPT[:1], np.array([0, 2]))
    done = export(toy(head), tmp_path / "toy.onnx", "onnx")
    _, probabilities = run_onnx(done.path, PIXELS)
    np.testing.assert_allclose(probabilities[:, [0, 2]], head.predict_proba(toy_answer(PIXELS)), rtol=1e-4)
    assert probabilities[:, 1].max() < 1e-30


def test_a_difference_is_measured_by_the_logits_that_are_learnt(
    toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent class's logit of -100 would hide a difference; small logits are held to their own size."""
    head = LinearHead.from_weights(1e-3 * COEF[:1], np.zeros(1), np.array([0, 2]))
    model, out = toy(head), tmp_path / "toy.onnx"
    pictures = noise_images(10)[:, 1:-1, 1:-1]
    largest = np.abs(head.decision_function(toy_answer(pictures))).max() / 2

    onnx_format = EXPORT_FORMATS.get("onnx")

    def shifted(saved: Any, last: Any, path: Path) -> ExampleCode:
        return onnx_format.write(saved, last._replace(bias=last.bias + 3e-4 * largest), path)

    monkeypatch.setitem(EXPORT_FORMATS._entries, "onnx", dataclasses.replace(onnx_format, write=shifted))
    with pytest.raises(ExportError) as caught:
        export(model, out, "onnx")
    assert str(caught.value) == (
        f"{model} as onnx gives other logits in a fresh process: they differ by 3.0e-04 of the largest, at most 1e-04 "
        "is allowed. Nothing was written. Use another format."
    )
    assert list(tmp_path.iterdir()) == [model]


def test_an_export_that_says_nothing_is_refused(
    toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = ExampleCode("from PIL import Image, ImageOps", "logits = np.full((len(photos), 3), np.nan)\n", "logits")

    def write(saved: Any, last: Any, path: Path) -> ExampleCode:
        path.write_bytes(b"nothing")
        return code

    changed = dataclasses.replace(EXPORT_FORMATS.get("onnx"), write=write)
    monkeypatch.setitem(EXPORT_FORMATS._entries, "onnx", changed)
    with pytest.raises(ExportError, match="they differ by nan of the largest"):
        export(toy(linear()), tmp_path / "toy.onnx", "onnx")


def test_a_state_dict_drops_into_the_tutorials_network(
    ants_bees: Path, mobilenet_weights: Path, tmp_path: Path
) -> None:
    weights = str(mobilenet_weights)
    backbone = load_backbone("mobilenet_v2", weights=weights, device="cpu", precision="fp32")
    model = write_model(tmp_path / "model", backbone, linear(2, 1280), ("ants", "bees"), weights)
    steps: list[str] = []
    done = export(model, tmp_path / "mine.pth", "state-dict", on_step=steps.append)
    assert steps == [f"loading {model}", "writing state-dict", "running it in a fresh process"]
    network = torchvision.models.mobilenet_v2()
    network.classifier[1] = torch.nn.Linear(1280, 2)
    network.load_state_dict(torch.load(done.path, weights_only=True))
    prepare = v2.Compose([
        v2.Resize(256), v2.CenterCrop(224), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    photos = [decode(path.read_bytes()) for path in sorted((ants_bees / "val").rglob("*.jpg"))[:100:33]]
    images = torch.stack([prepare(torch.from_numpy(photo).permute(2, 0, 1)) for photo in photos])
    with torch.inference_mode():
        result = network.eval()(images).softmax(1)
    expected = [dict(prediction.top)["bees"] for prediction in Classifier.load(model, device="cpu").predict(photos)]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(result[:, 1], expected, atol=0.01)  # theirs may be computed in bf16
    assert done.difference < 1e-5
    named = sorted((ants_bees / "val").rglob("*.jpg"))[:100:33]
    printed = ran(done.program, *named * 9).splitlines()
    assert printed == printed[:4] * 9  # in two batches
    lines = [line.split("\t") for line in printed[:4]]
    assert [line[0] for line in lines] == [str(path) for path in named]
    class_probabilities = [
        float(probability) if name == "bees" else 1 - float(probability) for _, name, probability in lines
    ]
    np.testing.assert_allclose(class_probabilities, expected, atol=0.02)  # Pillow resizes with another rounding
    assert done.snippet == done.program.read_text()
    assert (
        """
model = mobilenet_v2()
model.classifier[1] = torch.nn.Linear(1280, 2)
model.load_state_dict(torch.load(MODEL, weights_only=True))
model.eval()
"""
        in done.snippet
    )


def test_a_fine_tuned_network_is_exported_with_its_own_weights(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    finetune(data, tmp_path / "run", backbone="timm/test_resnet", weights="none", image_size=32,
             config=TrainConfig(epochs=1, batch_size=5), device="cpu")  # fmt: skip
    done = export(tmp_path / "run", tmp_path / "mine.pth", "state-dict")
    network = timm.create_model("test_resnet", num_classes=2)
    network.load_state_dict(torch.load(done.path, weights_only=True))
    trained = Classifier.load(tmp_path / "run", device="cpu")
    pictures = noise_images(trained.card.spec.view.resize_size)
    margin = (pictures.shape[1] - 32) // 2
    middles = pictures[:, margin : margin + 32, margin : margin + 32]
    with torch.inference_mode():
        result = network.eval()(trained.backbone.normalise(middles)).softmax(1)
    expected = [
        [dict(prediction.top)[name] for name in ("ants", "bees")] for prediction in trained.predict(list(pictures))
    ]
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert "model = timm.create_model('test_resnet', num_classes=2)\nmodel.load_state_dict(" in done.snippet
    assert done.difference < 1e-5


def test_an_exported_state_dict_is_weights(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    finetune(data, tmp_path / "run", backbone="timm/test_resnet", weights="none", image_size=32,
             config=TrainConfig(epochs=1, batch_size=5), device="cpu")  # fmt: skip
    done = export(tmp_path / "run", tmp_path / "mine.pth", "state-dict")
    run, exported = (
        load_backbone("timm/test_resnet", weights=str(path), device="cpu") for path in (tmp_path / "run", done.path)
    )
    state = torch.load(done.path, weights_only=True)
    assert state["fc.weight"].shape[0] == 2  # its own classes, which are not the new ones
    expected = {name: value for name, value in state.items() if not name.startswith("fc.")}
    assert exported.weights_sha256 == run.weights_sha256 == sha256_of(expected)
    assert exported.note == ""


def test_both_classifiers_of_a_distilled_network_are_replaced(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    backbone, head = load_backbone(f"timm/{name}", weights="none", device="cpu", precision="fp32"), linear(3, 192)
    model = open_model(write_model(tmp_path / "model", backbone, head), device="cpu", precision="fp32")
    EXPORT_FORMATS.get("state-dict").write(model, layer(head, 3), tmp_path / "deit.pth")
    network = timm.create_model(name, num_classes=3)
    network.load_state_dict(torch.load(tmp_path / "deit.pth", weights_only=True))
    pixels = noise_images(224)
    with torch.inference_mode():
        result = network.eval()(backbone.normalise(pixels))
    np.testing.assert_allclose(result, head.decision_function(backbone.embed(pixels)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("resnet18", ["fc"]),
        ("mobilenet_v2", ["classifier.1"]),
        ("densenet121", ["classifier"]),
        ("googlenet", ["fc"]),
        ("squeezenet1_1", []),
        ("efficientnet_lite0", ["classifier"]),
        ("timm/test_vit", ["head"]),
        ("timm/test_convnext", ["head.fc"]),
        ("timm/deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
        ("timm/levit_128s", []),  # a BatchNorm before each of its classifiers
    ],
)
def test_the_place_of_the_head_in_the_plain_network(name: str, classifiers: list[str]) -> None:
    before = torch.random.get_rng_state()
    assert linear_classifiers(name) == classifiers
    assert torch.equal(torch.random.get_rng_state(), before)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises((ExportError, OutputExistsError)) as caught:
        export(*arguments, **options)
    return str(caught.value)


def test_a_network_without_a_linear_end_has_no_state_dict(tmp_path: Path) -> None:
    backbone = load_backbone("squeezenet1_1", weights="none", device="cpu")
    model = write_model(tmp_path / "model", backbone, linear(3, backbone.dim))
    assert refusal(model, tmp_path / "mine.pth", "state-dict") == (
        "the plain squeezenet1_1 does not end in a linear layer, which the head could replace in its state dict. "
        "Use onnx or torch-export."
    )
    assert list(tmp_path.iterdir()) == [model]


def test_an_inner_layer_has_no_state_dict_but_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = toy_backbone(layers=("norm",))
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda name, **options: backbone)
    model = write_model(tmp_path / "model", backbone, LinearHead.from_weights(COEF, INTERCEPT, np.arange(3)))
    assert refusal(model, tmp_path / "mine.pth", "state-dict") == (
        "the head uses layer norm of toy. A state dict holds the plain network, which continues after that layer. Use "
        "onnx or torch-export, or fit the head with --layer penultimate."
    )
    done = export(model, tmp_path / "mine.onnx", "onnx")
    np.testing.assert_allclose(
        run_onnx(done.path, PIXELS)[0], toy_answer(PIXELS) @ COEF.T + INTERCEPT, rtol=1e-4, atol=1e-5
    )


def test_a_head_that_is_no_linear_layer_is_refused(toy: Callable[..., Path], tmp_path: Path) -> None:
    neighbours = KNeighborsClassifier(3, algorithm="brute").fit(toy_answer(PIXELS), [0, 1, 2, 0, 1])
    model = toy(neighbours)
    for format in EXPORT_FORMATS.names():
        assert refusal(model, tmp_path / "out", format) == (
            f"{model} holds a head mine, whose probabilities are not those of a linear layer: it cannot be exported. "
            "Fit centroid, head2toe, lda, linear, logreg, ridge or sgd (with --scaling standard, too)."
        )


def test_what_cannot_be_written_is_refused_before_the_model_is_looked_at(tmp_path: Path) -> None:
    out, gone = tmp_path / "mine.pth", tmp_path / "gone" / "mine.pth"
    out.write_text("precious")
    assert refusal(tmp_path, out, "state-dict") == f"{out} exists. Give another name, or overwrite it."
    assert refusal(tmp_path, gone, "state-dict") == f"{gone.parent} is not a folder. Create it first."
    assert refusal(tmp_path, gone, "tflite") == (
        "there is no export format 'tflite'; there are: onnx, state-dict, torch-export."
    )
    (tmp_path / "link").symlink_to("nowhere")
    assert (
        refusal(tmp_path, tmp_path / "link", "onnx")
        == f"{tmp_path / 'link'} exists. Give another name, or overwrite it."
    )
    assert out.read_text() == "precious"
    with pytest.raises(HeadError, match=r"is not a saved model: it has no model\.json"):
        export(tmp_path, tmp_path / "new.pth", "state-dict")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as caught:
        export(tmp_path, tmp_path / "mine.onnx", "onnx")
    assert str(caught.value) == f'this needs {package}, which is not installed: pip install -e ".[onnx]" in the clone'


def test_what_pytorch_cannot_export_is_refused_with_its_reason(
    toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        sys.stdout.write("chatter")
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(torch.export, "export", fail)
    assert refusal(toy(linear()), tmp_path / "mine.pt2", "torch-export") == (
        "PyTorch cannot export toy as torch-export (no such operator). Use another format."
    )
    assert capfd.readouterr() == ("", "")


def test_more_than_an_onnx_file_holds_is_refused(
    toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featcache.models.export.formats.onnx._MAX_BYTES", 75)
    assert refusal(toy(linear()), tmp_path / "mine.onnx", "onnx") == (
        "an ONNX file holds 2 GB, and this network has 104 B. Use torch-export."
    )


def test_a_result_is_lines_for_people_and_values_for_scripts() -> None:
    result = Exported(
        Path("a/mine.onnx"), Path("a/my mine.onnx.py"), "onnx", 1536, 2.34e-7, "import sys\n", ("mind this",)
    )
    assert str(result) == (
        "a/mine.onnx: onnx, 1.5 kB\n"
        "in a fresh process without featcache its logits differ by 2.3e-07 of the largest\n"
        "mind this\nthe program that was run there: python 'a/my mine.onnx.py' photo.jpg"
    )
    assert json.loads(json.dumps(result.to_dict())) == {
        "path": "a/mine.onnx",
        "format": "onnx",
        "program": "a/my mine.onnx.py",
        "size_bytes": 1536,
        "difference": 2.34e-7,
        "snippet": "import sys\n",
        "notes": ["mind this"],
    }
    assert MAX_DIFFERENCE == 1e-4


@pytest.mark.parametrize("format", EXPORT_FORMATS.names())
def test_a_full_disk_is_an_error_and_leaves_the_old_file(
    format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(
        "squeezenet1_1" if format != "state-dict" else "mobilenet_v3_small", weights="none", precision="fp32"
    )
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda name, **options: backbone)
    model = write_model(tmp_path / "model", backbone, linear(width=backbone.dim))
    out = tmp_path / "network"
    out.write_bytes(b"the export of before")
    with (
        file_size_limit(3000),
        pytest.raises(OutputError, match=f"{out} cannot be written: it is larger than the limit"),
    ):
        export(model, out, format, overwrite=True)
    assert out.read_bytes() == b"the export of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "network"]


def photo(path: Path, *, deep: bool = False) -> Path:
    """Smooth, not square, turned by its EXIF, partly transparent."""
    rows, columns = np.mgrid[:60, :91]
    grey = (np.sin(rows / 9) * np.cos(columns / 13) * 100 + 128).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    if deep:
        Image.fromarray(grey.astype(np.uint16) * 16).save(path, exif=exif)
    else:
        Image.fromarray(np.stack([grey, 255 - grey, grey, (columns * 2 + 70).astype(np.uint8)], 2)).save(
            path, exif=exif
        )
    return path


@pytest.mark.parametrize(
    ("deep", "interpolation", "format"),
    [
        (False, "bilinear", "torch-export"),
        (False, "bicubic", "onnx"),
        (True, "bilinear", "onnx"),
        (True, "bicubic", "onnx"),
    ],
)
def test_the_program_prepares_a_photo_as_the_network_has_seen_it(
    deep: bool, interpolation: str, format: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX's program starts sooner than PyTorch's, and both prepare photos with the same lines."""
    backbone = toy_backbone(image_size=24, resize_size=31, interpolation=interpolation)
    monkeypatch.setattr(backbone_loading, "load_backbone", lambda name, **options: backbone)
    view = dataclasses.replace(backbone.view_spec(augment="none"), value_range=(0, 4095) if deep else None)
    head = LinearHead.from_weights(COEF, INTERCEPT, np.arange(3))
    done = export(write_model(tmp_path / "model", backbone, head, view=view), tmp_path / "toy", format)
    data = photo(tmp_path / "photo.png", deep=deep).read_bytes()
    (expected,) = make_views(decode(data, value_range=view.value_range), view, b"", [0])
    result = load_of(done.program)(tmp_path / "photo.png")
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 100
    logits = toy_answer(result) @ COEF.T + INTERCEPT
    name, probability = ("ants", "bees", "wasps")[logits.argmax()], softmax(logits).max()
    assert ran(done.program, tmp_path / "photo.png") == f"{tmp_path / 'photo.png'}\t{name}\t{probability:.4f}\n"
    assert any("by the range 0:4095" in note for note in done.notes) == deep


def test_a_program_that_is_not_ours_is_not_replaced(toy: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "toy.onnx"
    model = toy(LinearHead.from_weights(COEF, INTERCEPT, np.arange(3)))
    Path(f"{out}.py").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"toy\.onnx\.py exists, where the program for toy\.onnx goes"):
        export(model, out, "onnx", overwrite=True)
    Path(f"{out}.py").unlink()
    export(model, out, "onnx")
    assert export(model, out, "onnx", overwrite=True).program == Path(f"{out}.py")
    (tmp_path / "elsewhere").mkdir()
    for name in ("toy.onnx", "toy.onnx.py"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)  # the two can be moved together
    assert ran(tmp_path / "elsewhere/toy.onnx.py", photo(tmp_path / "photo.png")).count("\t") == 2
