"""Several processes train as one does with the joint batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from featcache.core.model_card import CHECKPOINT
from featcache.errors import RunError
from featcache.finetuning.checks import process_device
from featcache.metrics.predictions import read_predictions
from featcache.training.distributed import ProcessGroup
from featcache.training.loop import TrainConfig
from forks import fork
from together import backbone, run_as, tune

MakeFolder = Callable[..., Path]
FIGURES = ("lr", "loss", "accuracy", "val_loss", "val_accuracy")


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    """16 training images, of which one is broken, and 7 of val."""
    root = make_folder({"train/ants": 9, "train/bees": 7, "val/ants": 4, "val/bees": 3, "test/ants": 2, "test/bees": 3})
    (root / "train/ants/004.png").write_bytes(b"no image")
    return root


class Started:
    """One of several processes that train together."""

    def __init__(self, rank: int, size: int, port: int, data: Path, out: Path, options: dict[str, Any]) -> None:
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
        output = Path(tempfile.mkdtemp(dir=data.parent)) / "said"
        self.out, self.err = output.with_suffix(".out"), output.with_suffix(".err")
        self.process = fork(run_as, environment, str(output), str(data), str(out), options)

    def wait(self) -> int | None:
        """Its status, -9 of SIGKILL; None where it has not ended."""
        self.process.join(240)
        return self.process.exitcode

    def wait_for(self, text: str) -> None:
        """Until its standard error holds it."""
        while not (self.err.exists() and text in self.err.read_text()):
            assert self.process.is_alive()
            time.sleep(0.02)

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def started(size: int, data: Path, out: Path, **options: Any) -> list[Started]:
    """Processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Started(rank, size, port, data, out, options) for rank in range(size)]


def together(size: int, data: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    """What the first of some processes prints."""
    processes = started(size, data, out, **options)
    assert [process.wait() for process in processes] == [0] * size, "\n".join(
        process.err.read_text() for process in processes
    )
    assert [process.err.read_text() for process in processes] == [""] * size  # no warning either
    outputs = [process.out.read_text() for process in processes]
    assert outputs[1:] == [""] * (size - 1)
    history: list[dict[str, Any]] = json.loads(outputs[0])
    return history


def figures(history: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    return np.array([[epoch[name] for name in FIGURES] for epoch in history])


def weights(out: Path) -> dict[str, torch.Tensor]:
    joint_history: dict[str, torch.Tensor] = torch.load(out / CHECKPOINT, weights_only=True)["module"]
    return joint_history


@pytest.mark.parametrize(
    "options",
    [
        {},  # the last batch is shared by nobody else, nor is its BatchNorm
        {"batchnorm": "eval", "weights": "pretrained"},
        {"mode": "head"},
        {"batch_size": 7},
    ],
    ids=["all", "eval", "head", "7"],
)
def test_two_processes_train_as_one_does(data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    alone = tune(str(data), str(tmp_path / "alone"), ProcessGroup(), **options)
    joint_history = together(2, data, tmp_path / "two", **options)
    np.testing.assert_allclose(figures(joint_history), figures(alone), rtol=1e-4)
    for name, value in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], value, rtol=1e-3, atol=1e-5)
    for file in ("val.csv", "last.csv", "test.csv"):
        a, b = ((tmp_path / run / file).read_text().splitlines() for run in ("alone", "two"))
        assert [line.split(",")[:3] for line in a] == [line.split(",")[:3] for line in b]
    assert read_predictions(tmp_path / "two")


@pytest.mark.parametrize("mode", ["all", "head"])
def test_a_process_without_images_takes_part(make_folder: MakeFolder, tmp_path: Path, mode: str) -> None:
    """3 processes share a last batch of 2, and 2 images of val and one of test."""
    data = make_folder({"train/ants": 9, "train/bees": 6, "val/ants": 1, "val/bees": 1, "test/ants": 1})
    options = {"mode": mode, "batch_size": 13, "network": "Attentive"}
    alone = tune(str(data), str(tmp_path / "alone"), ProcessGroup(), **options)
    joint_history = together(3, data, tmp_path / "three", **options)
    np.testing.assert_allclose(figures(joint_history), figures(alone), rtol=1e-4)
    for name, value in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "three")[name], value, rtol=1e-3, atol=1e-5)
    for file in ("val.csv", "test.csv"):
        a, b = ((tmp_path / run / file).read_text().splitlines() for run in ("alone", "three"))
        assert [line.split(",")[:3] for line in a] == [line.split(",")[:3] for line in b]


def masks(processes: list[Started]) -> list[list[str]]:
    """What the networks of processes dropped, step by step, when all have ended."""
    for process in processes:
        process.wait()
    return [
        [line for line in process.err.read_text().splitlines() if line.startswith("mask ")] for process in processes
    ]


def test_each_process_draws_its_own_masks_and_draws_them_again(data: Path, tmp_path: Path) -> None:
    first, second = masks(started(2, data, tmp_path / "whole", network="Dropping", batch_size=6))
    assert len({*first, *second}) == 2 * 3 * 3  # of two processes, in 3 epochs of 3 steps
    masks(started(2, data, tmp_path / "again", network="Dropping", batch_size=6, die_after=1))
    assert masks(started(2, data, tmp_path / "again", network="Dropping", batch_size=6)) == [first[3:], second[3:]]
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "again")[name], value), name


def test_processes_that_go_on_within_an_epoch_of_one_draw_their_own_masks(data: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: int, _total: int) -> None:
        if (phase, done) == ("epoch 3", 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(str(data), str(tmp_path / "run"), ProcessGroup(), network="Dropping", batch_size=6, progress=stop)
    first, second = masks(started(2, data, tmp_path / "run", network="Dropping", batch_size=6))
    assert len({*first, *second}) == 2 * 2


def test_a_run_goes_on_with_another_number_of_processes(data: Path, tmp_path: Path) -> None:
    alone = tune(str(data), str(tmp_path / "alone"), ProcessGroup())
    first, second = started(2, data, tmp_path / "run", die_after=2)
    assert first.wait() == -9
    assert second.wait()  # it does not wait for ever
    joint_history = together(3, data, tmp_path / "run", resume=True)
    np.testing.assert_allclose(figures(joint_history), figures(alone), rtol=1e-4)
    again = tune(str(data), str(tmp_path / "run"), ProcessGroup(), resume=True)
    assert again == joint_history


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_stopped_within_an_epoch_goes_on_with_another_number_of_processes(
    before: int, after: int, data: Path, tmp_path: Path
) -> None:
    """One process goes on within the epoch; several cannot agree on a batch, and go on after the last whole epoch."""
    alone = tune(str(data), str(tmp_path / "alone"), ProcessGroup())
    processes = started(before, data, tmp_path / "run", stop_in=2)
    for process in processes:
        process.wait_for("waiting\n")
    for process in processes:  # as torchrun passes it on
        process.send(signal.SIGTERM)
    outputs = [process.wait() for process in processes]
    assert outputs == [128 + signal.SIGTERM] * before, [process.err.read_text() for process in processes]
    checkpoint = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)
    assert len(checkpoint["history"]) == 1
    assert (checkpoint["under_way"] is not None, checkpoint["position"] > 0) == ((before == 1,) * 2)
    again = (data, tmp_path / "run")
    joint_history = tune(str(again[0]), str(again[1]), ProcessGroup()) if after == 1 else together(after, *again)
    assert joint_history[0] == checkpoint["history"][0]  # which was not trained again: its seconds are the same
    np.testing.assert_allclose(figures(joint_history), figures(alone), rtol=1e-4)
    for name, value in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, rtol=1e-3, atol=1e-5)


@given(size=st.integers(1, 9), count=st.integers(0, 40))
def test_the_shares_are_the_whole_and_none_exceeds_that_of_a_larger_batch(size: int, count: int) -> None:
    worlds = [ProcessGroup(rank, size) for rank in range(size)]
    shards = [list(process_group.shard(range(count))) for process_group in worlds]
    assert [row for shard in shards for row in shard] == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    larger = [process_group.shard(range(count + 1)) for process_group in worlds]
    assert all(len(a) <= len(b) for a, b in zip(shards, larger, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_cache": "images.h5"}, "an image cache is written by one process, and 3 train: drop --image-cache"),
        ({"compile": True}, "torch.compile does not support training in several processes: drop --compile"),
        ({"config": TrainConfig(batch_size=2)}, "3 processes cannot share batches of 2: raise --batch-size"),
    ],
)
def test_what_processes_cannot_do_together_is_said(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    from featcache.finetuning.finetune import finetune

    with pytest.raises(RunError) as caught:
        finetune(data, tmp_path / "run", process_group=ProcessGroup(0, 3), **options)
    assert str(caught.value).startswith(message)
    warning = r"^finetune\(world=\.\.\.\) is now finetune\(process_group=\.\.\.\)\.$"
    with pytest.warns(DeprecationWarning, match=warning), pytest.raises(RunError) as former:
        finetune(data, tmp_path / "run", world=ProcessGroup(0, 3), **options)
    assert str(former.value) == str(caught.value)


class Machine:
    """Two processes on a machine with GPUs, and what the second of them asks PyTorch for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
        self.calls: list[Any] = []
        for name, value in {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: self.calls.append(("set_device", str(device))))
        monkeypatch.setattr(torch.distributed, "init_process_group", self._init)
        for module in ("featcache.training.distributed", "featcache.finetuning.checks"):
            monkeypatch.setattr(f"{module}.resolve_device", self._resolve)

    def _init(self, backend: str, device_id: torch.device | None) -> None:
        self.calls.append((backend, str(device_id)))

    def _resolve(self, device: str) -> str:
        self.calls.append(device)
        return "cuda" if device == "auto" else device


def test_each_process_opens_its_own_gpu_before_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test of "cuda" would open the first GPU in every process; objects go through gloo, not to a GPU."""
    given, process_group = backbone(), ProcessGroup(1, 2)
    machine = Machine(monkeypatch, gpus=2)
    for device, asked in (("auto", ["auto", "cuda:1"]), ("cuda", ["cuda:1"]), ("cuda:1", ["cuda:1"])):
        device = process_device(process_group, "resnet18", device)
        process_group.init(device)
        assert machine.calls == [*asked, ("set_device", "cuda:1"), ("cpu:gloo,cuda:nccl", "cuda:1")]
        machine.calls.clear()
    process_group.init(process_device(process_group, "resnet18", "cpu"))
    assert machine.calls == ["cpu", ("gloo", "None")]
    assert process_device(process_group, given, "auto") == "cpu"  # where the given network is
    assert ProcessGroup().local_device("cuda:7") == "cuda:7"


def test_each_process_may_see_its_own_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Slurm isolates them."""
    Machine(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert ProcessGroup(3, 4).local_device("cuda:0") == "cuda:0"


@pytest.mark.parametrize(
    ("gpus", "device", "message"),
    [
        (1, "cuda", "each process needs its own GPU, but process 1 of this machine (the first is 0) has none of its 1 "
         "GPU(s): give torchrun --nproc-per-node 1, or --device cpu. If each process sees its own GPU alone, give "
         "--device cuda:0."),
        (2, "cuda:0", "each process needs its own GPU, but process 1 of this machine was given cuda:0: give --device "
         "cuda. CUDA_VISIBLE_DEVICES selects GPUs."),
        (0, "mps", "2 processes train together on GPUs of CUDA or on CPUs, not on 'mps': give --device cpu, or train "
         "in one process"),
    ],
)  # fmt: skip
def test_a_device_that_processes_cannot_share_is_said(
    monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, message: str
) -> None:
    Machine(monkeypatch, gpus)
    with pytest.raises(RunError) as caught:
        process_device(ProcessGroup(1, 2), "resnet18", device)
    assert str(caught.value) == message


def test_processes_that_torchrun_did_not_start_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"process 1 of 2 could not join .*MASTER_ADDR.* with torchrun"):
        ProcessGroup.from_torchrun().init("cpu")


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_step_with_batchnorm_does_not_wait_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, momentum: float | None
) -> None:
    """A fake tensor has no values: to read one on the host is an error."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda module, **_options: module)
    process_group = ProcessGroup(0, 2)
    process_group.batch_images = 4
    with FakeTensorMode():
        module = torch.nn.BatchNorm2d(3, momentum=momentum, device="cuda")
        result = process_group.wrap(module)(torch.empty(2, 3, 5, 5, device="cuda"))
        assert process_group.scale_loss(result.mean(), 2).device.type == "cuda"
