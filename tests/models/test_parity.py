"""What runs alone: a program in a fresh interpreter, on images in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache.errors import ExportError
from featcache.models.export.inputs.image import noise_images
from featcache.models.export.parity import run_example
from featcache.vision.image_files import write_png

MEANS = """import sys, numpy as np
from PIL import Image
logits = np.stack([np.asarray(Image.open(name)) for name in sys.argv[1:]]).mean((1, 2))
"""


def write_images(folder: Path, side: int) -> list[str]:
    paths = [folder / f"{number}.png" for number in range(4)]
    for path, image in zip(paths, noise_images(side), strict=True):
        write_png(image, path)
    return [str(path) for path in paths]


def test_the_first_picture_is_given_alone_and_then_all(tmp_path: Path) -> None:
    images = noise_images(20)
    logits = run_example(
        MEANS + "logits += 1000 * len(logits)\nprint('ants 0.9')", tmp_path / "x.pth", write_images(tmp_path, 20)
    )
    means = images.mean((1, 2))
    np.testing.assert_allclose(logits, np.concatenate([means[:1] + 1000, means + 4000]))


def test_images_differ_and_are_smooth() -> None:
    images = noise_images(224).astype(int)
    assert images.shape == (4, 224, 224, 3)
    assert np.abs(images[0] - images[1]).mean() > 50
    assert np.mean(images[:, 1:] == images[:, :-1]) > 0.9
    assert noise_images(5).shape == (4, 5, 5, 3)


@pytest.mark.parametrize(
    ("code", "last_line"),
    [
        ("raise ValueError('odd')", "ValueError: odd"),
        ("sys.modules['featcache'] = sys", "the example needs featcache"),
        ("import example", "ModuleNotFoundError: No module named 'example'"),
    ],
)
def test_what_does_not_run_alone_is_refused_with_its_last_line(code: str, last_line: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        run_example(MEANS + code, tmp_path / "x.pth", write_images(tmp_path, 8))
    assert (
        str(caught.value) == f"the exported model does not run in a fresh process ({last_line}). Nothing was written."
    )


def test_a_module_in_the_folder_is_not_taken_for_a_package(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    assert len(run_example(MEANS, tmp_path / "x.pth", write_images(tmp_path, 8))) == 5
