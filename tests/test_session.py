from __future__ import annotations

import itertools
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console

from litesnn.data.sources import Split
from litesnn.errors import InputError
from litesnn.training_loop.graphs import set_lr
from litesnn.training_loop.session import Session, begin_session, cosine_lr, find_device
from several import as_one_of
from tiny import input_info


def test_devices_that_are_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["", "gpu", "tpu", "mps", "meta", "cuda:x", "cuda:-1", "3"])
def test_unknown_devices(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown device .*expected auto, cpu, cuda or cuda:N"):
        find_device(name)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in ("cuda", "cuda:0", "cuda:7"):
        with pytest.raises(InputError, match=f"device '{name}' is not there: 0 CUDA devices found"):
            find_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match="2 CUDA devices found"):
        find_device("cuda:2")


def test_auto_takes_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: int(there))
        assert find_device("auto").type == kind


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 0.025), (1.0, 0.001), (0.5, 0.013), (1 / 3, 0.019), (2 / 3, 0.007)]
)
def test_cosine_by_hand(progress: float, rate: float) -> None:
    assert cosine_lr(0.025, 0.001, progress) == pytest.approx(rate)


def test_the_cosine_falls_all_the_way() -> None:
    rates = [cosine_lr(0.1, 0.0, step / 50) for step in range(51)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 51


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.15, 0.2, 0.6, 1.0])
def test_a_warm_up_by_hand(progress: float) -> None:
    """It rises to where the cosine would be then, and is that cosine from there on."""
    cosine = cosine_lr(0.025, 0.001, 0.2)
    expected = cosine * progress / 0.2 if progress < 0.2 else cosine_lr(0.025, 0.001, progress)
    assert cosine_lr(0.025, 0.001, progress, warmup=0.2) == pytest.approx(expected)
    assert cosine_lr(0.019, 0.019, progress, warmup=0.2) == pytest.approx(min(1, progress / 0.2) * 0.019)


def test_a_warm_up_has_no_jump() -> None:
    rates = [cosine_lr(0.1, 0.0, step / 1000, warmup=0.05) for step in range(1001)]
    assert max(abs(after - before) for before, after in itertools.pairwise(rates)) < 0.0021
    assert rates[0] == 0
    assert rates.index(max(rates)) == 50
    assert [cosine_lr(0.1, 0.0, step / 9) for step in range(10)] == [
        cosine_lr(0.1, 0.0, step / 9, warmup=0.0) for step in range(10)
    ]


def test_every_group_gets_the_rate() -> None:
    one, two = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [one], "lr": 1.0}, {"params": [two], "lr": 2.0}])
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_warnings_of_a_quiet_session_go_to_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = StringIO()
    loud, quiet = Session(console=Console(file=out, width=20)), Session()
    loud.warn("cells [of one] are recomputed, which is said in one line")
    quiet.warn("the same")
    assert out.getvalue() == "cells [of one] are recomputed, which is said in one line\n"
    assert capsys.readouterr() == ("", "litesnn: warning: the same\n")
    as_one_of(monkeypatch, 1, 2)
    quiet.warn("only the first speaks")
    assert capsys.readouterr() == ("", "")


def test_tensorboard_is_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'litesnn\[tensorboard\]'"):
        begin_session("cpu", Console(quiet=True), tensorboard=True)
    assert not begin_session("cpu", Console(quiet=True)).tensorboard


def test_samples_are_encoded() -> None:
    split = Split(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([0, 1]))
    rows = Session().samples(split, input_info((1, 1, 1)))
    assert rows.x.flatten().tolist() == [0, 32]  # (3 − 1)/2 · 32
    assert rows.x.dtype == torch.int8
    assert rows.y.tolist() == [0, 1]
    assert len(rows) == 2


def test_a_gpu_without_a_number_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for name in ("cuda", "cuda:1"):
        begin_session(name, Console(quiet=True))
    assert taken == [0, 1]
