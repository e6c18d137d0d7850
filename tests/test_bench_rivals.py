"""Rivals: integers compute what was trained, sizes and work by hand, and a killed training ends as the unbroken one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rivals
from litesnn.data.batches import generator_for, shuffled_batches
from litesnn.errors import InputError
from litesnn.runs import RunFolder
from litesnn.train.teacher import Teacher
from litesnn.training_loop.session import Session
from rival_networks import FLOAT, RIVALS, ActivationRange, Codes, QuantizedLayer, Rival, _rescaled, build_rival
from whole_job import Problem


def arguments(problem: Problem, runs: Path, *more: str) -> list[str]:
    said = ["--recipe", str(problem.recipe), "--data", str(problem.data), "--runs", str(runs), "--device", "cpu"]
    return [*said, "--network", "resnet8", "--width", "0.25", "--epochs", "4", *more]


def trained(rival: Rival, shape: tuple[int, int, int], steps: int = 4) -> Rival:
    """A network with ranges, statistics and weights as a few steps of training leave them, in evaluation mode."""
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # dropout's
    optimizer = torch.optim.SGD(rival.parameters(), lr=0.05)
    for _ in range(steps):
        x = torch.randint(-127, 128, (16, *shape), generator=rng).float()
        y = torch.randint(0, len(rival.head.bias), (16,), generator=rng)
        loss = torch.nn.functional.cross_entropy(rival(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return rival.eval()


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_integers_compute_what_was_trained(name: str, bits: int) -> None:
    """Every block's codes are those of its fake-quantized form, but for what lies between two codes."""
    shape = (2, 12, 20)
    rival = trained(build_rival(name, 2, 3, width=0.25, bits=bits, seed=1), shape)
    rng = torch.Generator().manual_seed(2)
    x = torch.randint(-127, 128, (32, *shape), generator=rng)
    codes, real = Codes(x, 1 / 32), x.double() / 32
    rival.double()
    with torch.no_grad():
        for block in rival._parts():
            codes = block.integer(codes)
            real = block(real)
            assert codes.values.dtype == torch.int64
            apart = (codes.values - real / codes.step).abs()
            assert float(apart.max()) < 4.5  # in a block, codes of the first layer may be one off
            assert float((apart > 1e-6).double().mean()) < 0.02
            real = codes.values.double() * codes.step  # errors do not add up
        torch.testing.assert_close(rival.head.logits(codes), rival.head(real), rtol=0, atol=1e-4)
    rival.float()
    assert float((rival.classify(x.float()) == rival(x.float()).argmax(1)).double().mean()) >= 0.95


def test_a_channel_that_batch_norm_silences_is_its_constant() -> None:
    layer = QuantizedLayer(2, 3, bits=8).double().eval()
    with torch.no_grad():
        layer.norm.weight.copy_(torch.tensor([0.0, -1.0, 0.0]))
        layer.norm.bias.copy_(torch.tensor([0.5, 0.25, 0.0]))
        layer.range.peak.fill_(1.0)
        x = torch.randint(-127, 128, (4, 2, 5, 5), generator=torch.Generator().manual_seed(0))
        found = layer.integer(Codes(x, 1 / 32))
        real = layer(x.double() / 32) / found.step
    assert (found.values[:, 0] == 128).all()  # 0.5 · 255 = 127.5, rounded up
    assert (found.values[:, 2] == 0).all()
    assert float((found.values[:, 1] - real[:, 1]).abs().max()) < 1e-6


def test_rescaling_rounds_half_up() -> None:
    sums = torch.tensor([[[-3]], [[3]], [[5]], [[2**30]], [[-(2**30)]]])
    factors = torch.tensor(0.5, dtype=torch.float64)
    assert _rescaled(sums, factors).flatten().tolist() == [-1, 2, 3, 2**29, -(2**29)]
    assert _rescaled(sums[3:], torch.tensor(1e-40, dtype=torch.float64)).flatten().tolist() == [0, 0]
    assert _rescaled(sums[:3], torch.tensor(3.0, dtype=torch.float64)).flatten().tolist() == [-9, 9, 15]


def test_ranges_follow_what_they_see() -> None:
    quantize = ActivationRange(signed=False, active=True)
    quantize(torch.tensor([0.0, 2.0]))
    assert float(quantize.peak) == 2.0
    quantize(torch.tensor([4.0]))
    assert float(quantize.peak) == pytest.approx(2.1)
    quantize.eval()
    x = torch.tensor([-1.0, 0.1, 9.0], requires_grad=True)
    y: Tensor = quantize(x)
    torch.testing.assert_close(y, torch.tensor([0.0, 0.1, 2.1]), rtol=0, atol=2.1 / 255 / 2)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_sizes_and_work_by_hand() -> None:
    """MLPerf Tiny's ResNet-8 has 78,666 parameters with 12.5 M MACs; ours has batch norm in two more shortcuts."""
    counts = build_rival("resnet8", 3, 10, width=1, bits=8, seed=0).count((32, 32))
    convolutions = 3 * 16 * 9 + 2 * 16 * 16 * 9 + (16 * 32 + 32 * 32) * 9 + 16 * 32 + (32 * 64 + 64 * 64) * 9 + 32 * 64
    channels = 16 + 2 * 16 + 3 * 32 + 3 * 64
    assert counts.parameters == convolutions + 2 * channels + 64 * 10 + 10
    assert abs(counts.parameters - 78_666) < 1000
    assert counts.macs == 12_501_632
    assert counts.weight_bytes() == convolutions + 640
    assert counts.bytes() == counts.weight_bytes() + 8 * (channels + 10) + 4 * counts.scales
    assert counts.scales == 1 + 1 + 3 * 3 + 2  # input, first layer, blocks, shortcuts
    four = build_rival("resnet20", 3, 10, width=1, bits=4, seed=0).count((32, 32))
    assert 0.27e6 < four.parameters < 0.28e6
    outer = 3 * 16 * 9 + 640
    inner = (four.weight_bits - 8 * outer) // 4
    assert four.weight_bytes() == outer + inner // 2
    commands = build_rival("ds-cnn", 1, 12, width=1, bits=8, seed=0).count((40, 98))
    assert commands.weight_bytes() == 64 * 40 + 4 * (64 * 9 + 64 * 64) + 64 * 12
    assert commands.macs == 20 * 49 * (64 * 40 + 4 * (64 * 9 + 64 * 64)) + 64 * 12
    half = build_rival("resnet8", 3, 10, width=0.5, bits=FLOAT, seed=0).count((32, 32))
    assert half.weight_bytes() < counts.weight_bytes() * 1.05


def test_unknown_networks_and_numbers_are_refused() -> None:
    for name, width, bits, message in (
        ("vgg", 1.0, 8, "no network 'vgg'; expected one of resnet8, resnet20, ds-cnn"),
        ("resnet8", 0.0, 8, "width 0: expected a number above 0"),
        ("resnet8", 1.0, 1, "bits 1: expected 2 to 8, or 32"),
    ):
        with pytest.raises(InputError, match=message):
            build_rival(name, 1, 2, width=width, bits=bits, seed=0)


def result_of(runs: Path) -> dict[str, Any]:
    (result,) = rivals.read_results(runs)
    return result


def test_the_whole_of_it(problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = arguments(problem, tmp_path, "--lr", "0.4")
    assert rivals.rivals([*said, "--table"]) == 0
    result = result_of(tmp_path)
    assert result["name"] == "resnet8-w0.25-b8-0"
    assert result["test_accuracy"] > 0.6
    assert result["predictions_as_fake_quantized"] >= 0.9
    assert result["rows"] == {"train": 96, "validation": 24, "test": 30}
    log = [json.loads(line) for line in (tmp_path / result["name"] / "train.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3, 4]
    assert result["epoch"] == [row["epoch"] for row in log if row["best"]][-1]
    assert f"| resnet8, width 0.25 | blobs | 8 | 1 | 4 | {result['test_accuracy']:.2%}" in capsys.readouterr().out
    assert rivals.rivals(said) == 0  # nothing is done again
    with pytest.raises(InputError, match=r"was made with other settings \(epochs was 4, now 5\)"):
        rivals.rivals([*said, "--epochs", "5"])
    assert rivals.rivals([*said, "--seed", "1", "--bits", "4"]) == 0
    assert rivals.rivals([*said, "--seed", "1"]) == 0
    rivals.rivals(["--runs", str(tmp_path), "--table"])
    out = capsys.readouterr().out
    assert "| resnet8, width 0.25 | blobs | 8 | 2 | 4 |" in out
    assert "| resnet8, width 0.25 | blobs | 4 | 1 | 4 |" in out


@pytest.mark.parametrize("network", ["resnet8", "ds-cnn"])
def test_a_killed_training_ends_as_the_unbroken_one(network: str, problem: Problem, tmp_path: Path) -> None:
    for name, limits in (("whole", [None]), ("broken", ["0", "0", None])):
        for limit in limits:
            more = [] if limit is None else ["--time-limit", limit]
            said = arguments(problem, tmp_path / name, "--epochs", "3", "--bits", "4", "--network", network, *more)
            assert rivals.rivals(said) == (0 if limit is None else 3)
    whole, broken = (result_of(tmp_path / name) for name in ("whole", "broken"))
    for result in (whole, broken):
        del result["train_seconds"]
    assert whole == broken
    for file in ("best.safetensors", "checkpoint.safetensors"):
        contents = [(tmp_path / name / whole["name"] / file).read_bytes() for name in ("whole", "broken")]
        assert contents[0] == contents[1]


def test_batches_are_those_of_a_litesnn_run(
    problem: Problem, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    whole = shuffled_batches

    def watched(rows: Any, size: int, generator: torch.Generator, *more: Any, **options: Any) -> Any:
        seen.append((len(rows), size, generator.initial_seed(), *more))
        return whole(rows, size, generator, *more, **options)

    monkeypatch.setattr(rivals, "shuffled_batches", watched)
    runs = ["--runs", str(tmp_path), "--device", "cpu", "--network", "resnet8", "--width", "0.25"]
    recipe = RunFolder(finished).recipe()
    options = rivals.parser().parse_args([*runs, "--like", str(finished)])
    assert rivals.RivalTraining(options, Session()).settings["epochs"] == recipe.train.epochs
    assert rivals.rivals([*runs, "--like", str(finished), "--epochs", "2"]) == 0
    assert [(rows, size, seed) for rows, size, seed, _ in seen] == [
        (96, recipe.train.batch_size, generator_for(recipe.seed, "train", epoch).initial_seed()) for epoch in range(2)
    ]
    assert seen[0][3] == recipe.augment
    assert (
        rivals.rivals(
            [*runs, "--like", str(finished), "--epochs", "1", "--bits", "4", "--set", "augment.flip=alternating"]
        )
        == 0
    )
    with pytest.raises(InputError, match="--like has a recipe and data of its own"):
        rivals.rivals([*runs, "--like", str(finished), "--data", "digits"])
    with pytest.raises(InputError, match="--like means its own data"):
        rivals.rivals([*runs, "--like", str(finished), "--set", "data.test_limit=3"])


def test_teachers(problem: Problem, finished: Path, tmp_path: Path) -> None:
    said = arguments(problem, tmp_path, "--epochs", "1")
    assert rivals.rivals([*said, "--bits", str(FLOAT), "--width", "0.5"]) == 0
    teacher = tmp_path / result_of(tmp_path)["name"]
    assert rivals.rivals([*said, "--teacher", str(teacher)]) == 0
    assert rivals.rivals([*said, "--bits", "4", "--teacher", str(finished)]) == 0
    names = {row["name"]: row for row in rivals.read_results(tmp_path)}
    assert set(names) == {"resnet8-w0.5-b32-0", "resnet8-w0.25-b8-taught-0", "resnet8-w0.25-b4-taught-0"}
    digests = {names[name]["settings"]["teacher"] for name in names if "taught" in name}
    assert len(digests) == 2
    assert names["resnet8-w0.25-b4-taught-0"]["settings"]["temperature"] == 3.0
    with pytest.raises(InputError, match="none"):
        rivals.rivals([*said, "--teacher", str(tmp_path / "none")])


def test_the_divergence_by_hand(problem: Problem, tmp_path: Path) -> None:
    options = rivals.parser().parse_args(arguments(problem, tmp_path))
    job = rivals.RivalTraining(options, Session())
    job.settings |= {"teacher_weight": 0.5, "temperature": 2.0}
    logits, wanted = torch.tensor([[0.0, 2.0, 4.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    y = torch.tensor([2])
    plain = float(job.loss(logits, logits, y))
    assert plain == pytest.approx(0.142932, abs=1e-5)
    job.teacher = Teacher(lambda x: wanted)
    p, q = wanted.div(2).softmax(1), logits.div(2).softmax(1)
    divergence = float((p * (p / q).log()).sum())
    assert float(job.loss(logits, logits, y)) == pytest.approx(plain + 0.5 * 4 * divergence)


def test_a_diverging_training_is_one_line(problem: Problem, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training diverged in epoch 1; try a lower --lr"):
        rivals.rivals(arguments(problem, tmp_path, "--lr", "1e30"))
    with pytest.raises(InputError, match="nothing to do; expected --network, --table or both"):
        rivals.rivals(["--runs", str(tmp_path)])
