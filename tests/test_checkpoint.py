from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from litesnn.errors import InputError
from litesnn.network_file import build_network, load, load_network, save_network
from litesnn.training_loop.checkpoint import load_into, load_state, load_tensors, save_state, save_tensors
from tiny import genotype, images, input_info, lively_network

TENSORS = {
    "floats": torch.tensor([[1.5, -0.0], [float("inf"), float("nan")]]),
    "scalar": torch.tensor(3.25, dtype=torch.float64),
    "counts": torch.arange(5),
    "flags": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "half": torch.tensor([0.1], dtype=torch.float16),
    "strided": torch.arange(6.0).view(2, 3).T,
}
INFO = {"epoch": 12, "rates": {"stem": [0.25, 0.5]}, "name": "zwölf"}


def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state.safetensors"
    save_tensors(path, "test", TENSORS, INFO)
    return path


def test_a_round_trip_is_exact(tmp_path: Path) -> None:
    tensors, info = load_tensors(saved(tmp_path), "test")
    assert info == INFO
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].contiguous().flatten().view(torch.uint8).tolist() == (
            tensor.contiguous().flatten().view(torch.uint8).tolist()
        )


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    for end in [*range(0, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match="damaged or not a safetensors file"):
            load_tensors(path, "test")
    path.write_bytes(data + b"\x00")
    with pytest.raises(InputError, match="damaged"):
        load_tensors(path, "test")


def test_a_flipped_bit_in_the_tensors_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path)
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert len(data) - header > 60
    for place in range(header, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(InputError, match="damaged"):
            load_tensors(path, "test")


def test_a_flipped_bit_in_the_header_is_found_or_harmless(tmp_path: Path) -> None:
    """Names, shapes and the description are as worth protecting as the numbers: an epoch, a firing rate, a genotype."""
    path = saved(tmp_path)
    data = path.read_bytes()
    passed = []
    for place in range(8 + int.from_bytes(data[:8], "little")):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x01]) + data[place + 1 :])
        with contextlib.suppress(InputError):
            tensors, info = load_tensors(path, "test")
            if info != INFO or set(tensors) != set(TENSORS):
                passed.append((place, info))
    assert passed == []


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(InputError, match="not a litesnn network file"):
        load_tensors(path, "network")
    safetensors.torch.save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not a litesnn test file"):
        load_tensors(path, "test")


@pytest.mark.parametrize("description", ["null", "[]", "3", '{"kind": "test"}', "{"])
def test_another_description_is_refused(tmp_path: Path, description: str) -> None:
    path = tmp_path / "state.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata={"litesnn": description})
    with pytest.raises(InputError):
        load_tensors(path, "test")


def test_an_unknown_version_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with safetensors.safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["litesnn"])
    description["version"] = 7
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata={"litesnn": json.dumps(description)})
    with pytest.raises(InputError, match="unknown version 7; expected 1"):
        load_tensors(path, "test")


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(8), b"\xff" * 64])
def test_no_safetensors_at_all(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"state\.safetensors is damaged or not a safetensors file"):
        load_tensors(path, "test")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_tensors(tmp_path / "none", "test")
    with pytest.raises(InputError):
        load_tensors(tmp_path, "test")


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.scores = nn.Parameter(torch.randn(4))
        self.unused = nn.Parameter(torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))


def loop(seed: int) -> tuple[Tiny, dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(seed)
    module = Tiny()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "sgd": torch.optim.SGD([module.weight, module.unused], lr=0.1, momentum=0.9, weight_decay=1e-3),
        "adam": torch.optim.Adam([module.scores], lr=0.02, weight_decay=1e-3),
        "plain": torch.optim.SGD([module.scores], lr=0.01),
    }
    return module, optimizers


def step(module: Tiny, optimizers: dict[str, torch.optim.Optimizer], x: Tensor) -> None:
    module.zero_grad()
    ((x @ module.weight.T).square().sum() + module.scores.pow(4).sum()).backward()  # type: ignore[no-untyped-call]
    for optimizer in optimizers.values():
        optimizer.step()


def test_a_resumed_loop_goes_on_exactly(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    batches = [torch.randn(5, 2, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    module, optimizers = loop(0)
    for x in batches[:4]:
        step(module, optimizers, x)
    save_state(path, "test state", module, optimizers, {"epoch": 4})
    other, others = loop(1)
    assert not torch.equal(other.weight, module.weight)
    assert load_state(path, "test state", other, others) == {"epoch": 4}
    for x in batches[4:]:
        step(module, optimizers, x)
        step(other, others, x)
    for (name, ours), theirs in zip(module.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for name, optimizer in optimizers.items():
        mine, yours = optimizer.state_dict()["state"], others[name].state_dict()["state"]
        assert mine.keys() == yours.keys()
        for index, state in mine.items():
            for key, value in state.items():
                same: Any = value == yours[index][key]
                assert same.all() if isinstance(same, Tensor) else same, (name, index, key)


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    module, optimizers = loop(0)
    save_state(path, "test state", module, optimizers, {})
    with pytest.raises(InputError, match="does not fit the network"):
        load_state(path, "test state", nn.Linear(2, 3), {})
    with pytest.raises(InputError, match="does not fit the network"):
        load_into(nn.Linear(2, 3), {"weight": torch.zeros(2, 2), "bias": torch.zeros(3)}, path)


@torch.no_grad()
def test_a_saved_network_computes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    network = lively_network(genotype(), input_info(), 3).train()
    save_network(path, network)
    x = images((2, 6, 5))
    expected = network.eval()(network.encode(x)).logits
    for found in (load_network(path), load(path), load(tmp_path), load(str(path))):
        assert not found.training
        assert (found.genotype, found.info) == (network.genotype, network.info)
        assert torch.equal(found(found.encode(x)).logits, expected)
    with pytest.raises(InputError, match="missing"):
        load(tmp_path.parent)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none")


def test_a_built_network_depends_on_its_seed_alone() -> None:
    before = torch.get_rng_state()
    weights = [build_network(genotype(), input_info(), seed).backbone.classifier.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)
