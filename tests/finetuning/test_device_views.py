"""Fine-tuning whose views the device of the network makes: the run of the CPU path, bit by bit.

There is no GPU: the device is the CPU, where the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commands import PATHS, in_process, write_folder
from featcache.core.specs import ViewSpec
from featcache.data.sample_loader import join_inputs
from featcache.finetuning.finetune import finetune
from featcache.vision.augment import make_views
from featcache.vision.device_views import support
from featcache.vision.device_views.device_views import DecodedViews, DeviceViews
from trainable import trainable_backbone

INTERPRETED = """
import json, sys
from dataclasses import replace
from pathlib import Path
from featcache.finetuning.finetune import finetune
from featcache.vision.device_views import support
from featcache.vision.device_views.device_views import DeviceViews
from trainable import trainable_backbone

data, folder = map(Path, sys.argv[1:])
is_supported = support.can_make_views
made, run = [], DeviceViews._run
DeviceViews._run = lambda self, views, device: made.append(len(views)) or run(self, views, device)
found = []
for mode in ("all", "head"):
    histories = []
    for on_device in (False, True):
        support.can_make_views = (lambda device: True) if on_device else is_supported
        made.clear()
        config = {"epochs": 2, "batch_size": 3}
        tuned = finetune(data, folder / f"{mode}-{on_device}", backbone=trainable_backbone(), mode=mode, config=config,
                         workers=2, seed=5)
        histories.append([repr(replace(epoch, seconds=0.0)) for epoch in tuned.history])
        assert not any("views are made" in note for note in tuned.notes), tuned.notes
    found.append([histories[0] == histories[1], made[1:]])
print(json.dumps(found))
"""


def test_a_run_is_that_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec("triton"):
        pytest.skip("Triton is not installed")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    data = write_folder(tmp_path / "data", {"train/ants": 2, "train/bees": 2, "val/ants": 1, "val/bees": 1})
    ran = in_process(f"import sys; sys.path += {PATHS.split(':')}\n{INTERPRETED}", data, tmp_path, timeout=300)
    assert ran.returncode == 0, ran.stderr
    # batch normalisation merges the last single image of four into the batch of three before it
    assert json.loads(ran.stdout) == [[True, [4, 2, 4, 2]], [True, [3, 1, 2, 3, 1, 2]]]


def test_a_device_that_fails_is_noted(split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(support, "can_make_views", lambda device: True)
    monkeypatch.setattr(DeviceViews, "_launch", launch)
    tuned = finetune(split_folder, tmp_path / "run", backbone=trainable_backbone(), config={"epochs": 1})
    assert "views are made on the CPU, because cpu cannot make them: no compiler" in tuned.notes


@pytest.mark.parametrize("planned", [(True, True), (True, False), (False, True), (False, False)])
def test_inputs_of_two_batches_are_joined(planned: tuple[bool, bool]) -> None:
    maker, image = DeviceViews(ViewSpec(8, 10)), np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    expected = make_views(image, maker.spec, b"", range(4))
    parts = []
    for numbers, on_device in zip(([0, 1], [2, 3]), planned, strict=True):
        views = maker.plan(image, b"", numbers)
        assert views
        parts.append(maker.collate([views]) if on_device else expected[numbers])
    joined = join_inputs(*parts)
    assert isinstance(joined, DecodedViews) is planned[0]
    np.testing.assert_array_equal(np.asarray(joined), expected)
