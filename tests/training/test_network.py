"""Network: body then head; weights come back bit by bit; foreign files are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from featcache.errors import HeadError
from featcache.training.loop import linear_layer
from featcache.training.network import BackboneWithHead
from foreign import Payload
from trainable import TrainableNet


def network(classes: int = 3, seed: int = 0) -> BackboneWithHead:
    torch.manual_seed(seed)
    return BackboneWithHead(TrainableNet(3), linear_layer(4, classes, seed)).eval()


def test_the_logits_are_the_head_s_answer_to_the_body_s() -> None:
    net, pixels = network(), torch.rand(2, 3, 8, 8)
    features = net.body(pixels)
    torch.testing.assert_close(net(pixels), features @ net.head.weight.T + net.head.bias)


def test_weights_and_statistics_come_back_bit_by_bit(tmp_path: Path) -> None:
    first, second = network(seed=1).to(memory_format=torch.channels_last), network(seed=2)
    first.train()(torch.rand(2, 3, 8, 8))
    first.eval().save(tmp_path / "network.safetensors")
    pixels = torch.rand(2, 3, 8, 8)
    assert not torch.equal(first(pixels), second(pixels))
    second.load(tmp_path / "network.safetensors")
    assert first.body.norm.num_batches_tracked == 1
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize("kind", ["absent", "half", "pickle", "other"])
def test_a_file_without_these_weights_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    file, mark, net = tmp_path / "network.safetensors", tmp_path / "mark", network()
    if kind == "half":
        net.save(file)
        file.write_bytes(file.read_bytes()[:-20])
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Payload(str(mark))))
    if kind == "other":
        BackboneWithHead(nn.Identity(), nn.Linear(2, 2)).save(file)
    with pytest.raises(HeadError) as caught:
        net.load(file)
    assert str(caught.value).startswith(f"{file} does not hold the weights of this network: ")
    assert not mark.exists()
