"""The plain networks compute what litesnn's compute, the floor has their convolutions, and what is printed is true."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gpu_steps
import plain
import rounds
import step_report
from agreement import TOLERANCE, evidence, largest_difference, require_agreement
from conv_floor import Convolution, Floor, convolutions, merged
from litesnn.errors import LitesnnError
from litesnn.snn.cost import conv_output
from step_cases import DERIVED, SHAPES, Case, backbone_of, derived_genotype, make_step, search_loop, train_loop
from step_memory import peak_in_new_process
from step_report import figures_of, growth_cases

SMALL: dict[str, dict[str, Any]] = {
    "paper": {"model.width": 2, "model.stem_channels": 4, "model.levels": [0, 1, 1], "search.timesteps": 3},
    "digits": {"model.width": 3, "model.stem_channels": 4, "model.levels": [0, 1], "search.timesteps": 2},
}
STAGES = ("search", "train")
ALL = [(stage, name) for stage in STAGES for name in SMALL]


def small(stage: str, name: str, batch: int = 2) -> Case:
    return Case(stage, name, batch, SMALL[name])


def test_every_recipe_that_can_be_measured_is_tested() -> None:
    assert set(SMALL) == set(SHAPES) == set(DERIVED)


@pytest.mark.parametrize(("stage", "name"), ALL)
@pytest.mark.parametrize("contender", ["plain", "plain_once"])
def test_plain_networks_agree(stage: str, name: str, contender: str) -> None:
    case = small(stage, name)
    ours, others = evidence(case, "ours"), evidence(case, contender)
    worst, difference = largest_difference(ours, others)
    assert difference < TOLERANCE, worst
    assert ours["logits"].dtype == torch.float64
    assert ours["logits"].any()
    silent = {key for key, tensor in ours.items() if not tensor.any()}
    assert not silent - {"backbone.stem.conv.scores", "backbone.classifier.scores"}
    if stage == "search":
        assert {"alpha", "beta"} < set(ours)


@pytest.mark.parametrize("stage", STAGES)
def test_a_disagreement_is_found(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small(stage, "digits")
    assert require_agreement(case) < TOLERANCE
    monkeypatch.setattr(plain, "THRESHOLD", 0.51)
    with pytest.raises(LitesnnError, match=f"{stage} digits: .* of plain is off by"):
        require_agreement(case)


def test_the_largest_difference_is_relative_and_named() -> None:
    ours = {"a": torch.tensor([1.0, 100.0]), "b": torch.tensor([2.0])}
    name, difference = largest_difference(ours, {"a": torch.tensor([2.0, 100.0]), "b": torch.tensor([2.01])})
    assert name == "a"
    assert difference == pytest.approx(0.01)
    assert largest_difference(ours, {"a": ours["a"]}) == ("b", math.inf)


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts convolutions and their multiply-accumulates."""

    calls = macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.calls += 1
            self.macs += out.numel() * args[1][0].numel()
        return out


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_the_floor_has_the_networks_work(stage: str, name: str) -> None:
    case = small(stage, name, 3)
    backbone = backbone_of(case)
    rows, timesteps = convolutions(backbone), backbone.genotype.timesteps
    counts = [Count(), Count(), Count()]  # type: ignore[no-untyped-call]
    with counts[0]:
        evidence_free_pass(case)
    for count, chosen in zip(counts[1:], (rows, merged(rows)), strict=True):
        floor = Floor(chosen, timesteps=timesteps, batch=3)
        with count:
            floor.run()
    image, *others = rows
    assert image.state == "image"
    expected = 3 * image.macs + 3 * timesteps * sum(row.macs for row in others)
    assert [count.macs for count in counts] == [expected] * 3
    assert [count.calls for count in counts[:2]] == [1 + timesteps * len(others), len(rows)]
    assert counts[2].calls == len(merged(rows)) < len(rows)


def evidence_free_pass(case: Case) -> None:
    """The forward pass of the plain network, without costs."""
    x, _ = case.images(0)
    if case.stage == "search":
        search_loop(case, "plain").supernet(x)
    else:
        train_loop(case, "plain").trainee.network(x)


def test_what_reads_a_state_alike_is_merged() -> None:
    rows = [
        Convolution("image", 3, 8, 3, 1, 5, 4),
        Convolution("stem", 8, 2, 3, 1, 5, 4),
        Convolution("stem", 8, 2, 1, 1, 5, 4),
        Convolution("stem", 8, 3, 3, 1, 5, 4),
        Convolution("stem", 8, 4, 3, 2, 5, 4),
    ]
    found = merged(rows)
    assert [(row.state, row.outputs, row.kernel, row.stride) for row in found] == [
        ("image", 8, 3, 1),
        ("stem", 5, 3, 1),
        ("stem", 2, 1, 1),
        ("stem", 4, 3, 2),
    ]
    assert sum(row.macs for row in found) == sum(row.macs for row in rows)
    assert rows[0].macs == 3 * 8 * 9 * 20
    assert rows[4].macs == 8 * 4 * 9 * 3 * 2


def test_a_frozen_stem_saves_the_gradients_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []
    real = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, *others: Any) -> Any:
        wanted.append(len(inputs))
        return real(outputs, inputs, *others)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    rows = [Convolution("image", 1, 2, 3, 1, 4, 4), Convolution("stem", 2, 2, 3, 1, 4, 4)]
    floor = Floor([*rows, Convolution("cell 1", 2, 2, 3, 1, 4, 4)], timesteps=2, batch=1)
    floor.run()
    assert wanted == [1, 2, 2]
    wanted.clear()
    floor.run(stem_learns=False)
    assert wanted == [1, 2]  # none for the stem, its readers' weights, and both


@pytest.mark.parametrize(("stage", "name"), ALL)
def test_every_contender_steps_from_the_same_loss(stage: str, name: str) -> None:
    case = small(stage, name, 6)
    losses = {contender: make_step(case, contender)() for contender in case.contenders()}
    assert [key for key, loss in losses.items() if loss is None] == [
        key for key in case.contenders() if key.startswith("floor")
    ]
    assert losses["plain"] == pytest.approx(losses["ours"], rel=0.1)  # float32: some spikes may differ
    assert losses["plain_once"] == pytest.approx(losses["plain"], rel=1e-4)
    if stage == "search":
        assert losses["joint"] is not None
        assert losses["joint"] > 0


def test_cases_survive_the_way_to_another_process() -> None:
    case = small("train", "paper")
    assert Case.from_json(case.to_json()) == case
    assert Case.from_json(case.to_json()).recipe.model.width == 2
    assert Case("train", "paper", 2).recipe.model.width == 48
    assert Case("search", "paper", 2).recipe.model.width == 12


def test_derived_networks_are_of_the_papers_kind() -> None:
    found = derived_genotype(Case("train", "paper", 8))
    assert (found.nodes, found.timesteps, len(found.cells)) == (4, 6, 8)
    assert {cell.bits for cell in found.cells} == {1, 2, 4}
    assert {cell.keep for cell in found.cells} == {0.2}
    assert [sum(edge.node == node for edge in found.edges) for node in range(4)] == [2] * 4
    assert [cell.width for cell in found.cells] == [48, 48, 96, 96, 96, 192, 192, 192]


@pytest.mark.parametrize("stage", STAGES)
def test_one_thing_grows_at_a_time(stage: str) -> None:
    paper = growth_cases(stage, "paper")
    assert [value for value, _ in paper["timesteps"]] == [1, 2, 4, 6]
    assert [value for value, _ in paper["cells"]] == [2, 4, 6, 8]
    assert [value for value, _ in paper["filters"]] == ([6, 12, 24] if stage == "search" else [12, 24, 48])
    cases = growth_cases(stage, "digits")
    assert list(cases) == list(paper) == ["timesteps", "batch", "filters", "cells"]
    for what, points in cases.items():
        values = [value for value, _ in points]
        assert values == sorted(set(values))
        assert len(values) >= 3
        for value, case in points:
            genotype = backbone_of(case).genotype
            assert 3 * genotype.stem.channels == 4 * genotype.cells[0].width
            assert value == {
                "timesteps": genotype.timesteps,
                "batch": case.batch,
                "filters": genotype.cells[0].width,
                "cells": len(genotype.cells),
            }[what]  # fmt: skip


def test_turns_rotate_and_ratios_are_medians_of_rounds() -> None:
    order: list[str] = []
    clock = iter(range(100))

    def measure(call: Any) -> float:
        call()
        return float(next(clock))

    found = rounds.in_turns({name: partial(order.append, name) for name in "abc"}, 2, measure)
    assert "".join(order) == "abcbca"
    assert found == {"a": [0, 5], "b": [1, 3], "c": [2, 4]}
    assert rounds.ratio([20.0, 10.0, 10.0], [1.0, 2.0, 4.0]) == 5.0


def test_figures_by_hand() -> None:
    def result(*times: float, **others: float) -> dict[str, Any]:
        return {"seconds": sorted(times)[1], "rounds": list(times), **others}

    results = {
        "ours": result(2.0, 2.0, 4.0, peak_bytes=30, convolution_share=0.6),
        "recomputed": result(2.5, 3.0, 2.5, peak_bytes=20),
        "joint": result(1.0, 1.0, 2.0, peak_bytes=28),
        "plain": result(10.0, 12.0, 10.0, peak_bytes=100),
        "plain_once": result(6.0, 6.0, 6.0, peak_bytes=60),
        "floor": result(1.6, 1.6, 1.0),
        "floor_joint": result(0.8, 0.5, 0.5),
    }
    assert figures_of(results, batch=8) == {
        "seconds_per_step": 2.0,
        "images_per_second": 4.0,
        "speedup_vs_plain": 5.0,
        "memory_vs_plain": 0.3,
        "speedup_vs_plain_once": 3.0,
        "memory_vs_plain_once": 0.5,
        "times_conv_floor": 1.25,
        "convolution_share": 0.6,
        "recomputed.speedup_vs_plain": 4.0,
        "recomputed.memory_vs_plain": 0.2,
        "recomputed.times_conv_floor": 1.875,
        "joint.images_per_second": 8.0,
        "joint.speedup_vs_alternating": 2.0,
        "joint.times_conv_floor": 2.0,
    }


@pytest.mark.job
@pytest.mark.parametrize("stage", STAGES)
def test_the_program_prints_figures_and_keeps_all_times(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_report, "Case", lambda stage, name, batch: small(stage, name, batch))
    monkeypatch.setattr(step_report, "growth_cases", lambda stage, name: {"batch": [(4, small(stage, name, 4))]})
    path = tmp_path / "results" / f"{stage}_step.json"
    options = ["--recipes", "digits", "--rounds", "2", "--threads", "1", "--no-memory", "--grow"]
    monkeypatch.setattr(sys, "argv", ["x", *options, "--json", str(path)])
    step_report.main(stage, "", batches={"digits": [4, 2], "paper": [2]})
    lines = capsys.readouterr().out.rstrip().rpartition("\n\n")[2].splitlines()
    printed = {name: float(value) for name, value in (line.split() for line in lines)}
    report = json.loads(path.read_text())
    assert printed == {name: pytest.approx(value, rel=1e-3) for name, value in report["figures"].items()}
    assert {"speedup_vs_plain", "b2.times_conv_floor", "b2.images_per_second"} < set(printed)
    assert all(value > 0 for value in printed.values())
    assert [(row["name"], row["batch"]) for row in report["cases"]] == [("digits", 4), ("digits", 2)]
    assert all(len(result["rounds"]) == 2 for row in report["cases"] for result in row["results"].values())
    assert report["conditions"]["threads"] == 1
    assert set(report["growth"]["batch"][0]["results"]) == {"ours", "plain"}

    plot = pytest.importorskip("plot_performance", reason="matplotlib is missing")
    for folder in ("a", "b"):
        plot.main([str(path), "--to", str(tmp_path / folder)])
    drawn = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert drawn == [f"{stage}_growth.svg", f"{stage}_step.svg"]
    for name in drawn:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert "litesnn" in (tmp_path / "a" / name).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipes", "nope"], "unknown recipe 'nope'"),
        (["--cpu-time"], "needs --threads 1"),
        (["--rounds", "0"], "expected a number from 1"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *options])
    with pytest.raises(SystemExit, match="2"):
        step_report.main("search", "", batches={"paper": [8]})
    assert message in capsys.readouterr().err


@pytest.mark.job
def test_peak_memory_holds_what_a_step_keeps() -> None:
    case = Case("search", "digits", 128)
    backbone = backbone_of(case)
    kept = 0
    for row in convolutions(backbone):  # of every convolution the output is kept for the normalisation
        pixels = conv_output(row.height, row.stride) * conv_output(row.width, row.stride)
        kept += 4 * 128 * row.outputs * pixels * (1 if row.state == "image" else backbone.genotype.timesteps)
    peak = peak_in_new_process(case, "plain", threads=1)
    assert kept < peak < 40 * kept
    with pytest.raises(LitesnnError, match="memory of nobody: exit code 1"):
        peak_in_new_process(case, "nobody", threads=1)


@pytest.mark.job
def test_gpu_steps_measure_what_is_missing_and_ways_compute_the_same() -> None:
    rows = [
        {"case": "cifar10-s:2", "stage": stage, "way": way}
        | gpu_steps.measure("cifar10-s", 2, stage, way, torch.device("cpu"), 1)
        for stage in ("search", "train")
        for way in ("torch", "triton")
    ]
    assert not [row["error"] for row in rows if "error" in row]
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["first"] == pytest.approx(other["first"], rel=1e-4)
        assert one["ms"] > 0
    left = list(gpu_steps.remaining(rows, ["cifar10-s:2"], ["torch", "compiled"]))
    assert left == [("cifar10-s:2", "search", "compiled"), ("cifar10-s:2", "train", "compiled")]
