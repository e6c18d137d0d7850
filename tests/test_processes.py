"""Several processes on this machine have to do what one does: the same batches, gradients and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from litesnn import processes
from litesnn.data.augment import AugmentSettings
from litesnn.data.batches import Samples, generator_for, shuffled_batches
from litesnn.data.sources import load
from litesnn.errors import InputError
from litesnn.network_file import build_network
from litesnn.search.joint import SearchLoop, build_supernet
from litesnn.train.evaluate import measure
from litesnn.train.fit import Trainee, TrainLoop, validate
from litesnn.training_loop.equal_parts import require_equal_parts
from litesnn.training_loop.progress import RunningMeans
from litesnn.training_loop.session import Session, find_device, input_info, parameters
from several import as_one_of, together
from tiny import genotype, lively_network
from tiny import input_info as tiny_input
from whole_job import Problem, recipe

Array = npt.NDArray[np.float64]

# --- alone ---


def test_alone_everything_is_what_it_is(tmp_path: Path) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with processes.joined():
        assert (processes.count(), processes.rank(), processes.is_first()) == (1, 0, True)
        assert (processes.local_rank(), processes.local_count()) == (0, 1)
    assert processes.total(x) is x
    assert processes.total_(x) is x
    assert processes.agreed(x.sum()) == 3.0
    assert processes.part(5) == slice(0, 5)
    assert processes.smallest(3) == 3
    assert processes.first_does(lambda: 7) == 7
    processes.barrier()
    processes.copy_from_first(tmp_path, ["nothing"])
    with processes.apart(), processes.first_before_others():
        assert processes.count() == 1


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [0, 1, 6, 7, 13, 42])
def test_parts_make_up_the_whole(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    found: list[int] = []
    for rank in range(count):
        as_one_of(monkeypatch, rank, count)
        part = list(range(size))[processes.part(size)]
        assert size % count or len(part) == size // count
        found += part
    assert found == list(range(size))


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_has_its_part_of_the_very_batches_of_one(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(-127, 128, (20, 2, 6, 5), generator=rng).to(torch.int8)
    samples = Samples(pixels, torch.arange(20), torch.tensor([-3, 5], dtype=torch.int8))
    settings = AugmentSettings(crop=2, flip=True, cutout=3)

    def epoch() -> list[tuple[Tensor, Tensor]]:
        return list(shuffled_batches(samples, 6, generator_for(0, "epoch"), settings))

    whole, parts = epoch(), []
    for rank in range(count):
        as_one_of(monkeypatch, rank, count)
        parts.append(epoch())
    assert len(whole) == 3
    for (x, y), *shares in zip(whole, *parts, strict=True):
        assert all(len(share_y) == 6 // count for _, share_y in shares)
        assert torch.equal(x, torch.cat([share_x for share_x, _ in shares]))
        assert torch.equal(y, torch.cat([share_y for _, share_y in shares]))


def test_fewer_rows_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    as_one_of(monkeypatch, 0, 4)
    with pytest.raises(InputError, match="3 images are too few for 4 processes"):
        Samples(torch.zeros(3, 1, 1, 1), torch.zeros(3)).part()


def test_what_several_processes_cannot_share_is_refused(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """96 training and 24 validation images."""
    plan = recipe(problem.data, {"search.batch_size": 48, "train.batch_size": 96})
    data = load(plan.data)
    assert (len(data.train.y), len(data.validation.y)) == (96, 24)
    for count in (1, 2, 3, 4, 6, 8, 12, 24):
        as_one_of(monkeypatch, 0, count)
        require_equal_parts(plan, ["search", "train"], data)
    as_one_of(monkeypatch, 0, 16)
    require_equal_parts(plan, ["train"], data)
    with pytest.raises(InputError, match=r"the 24 validation images are less than a batch .* at most 16, or fewer"):
        require_equal_parts(plan, ["search"], data)
    joint = recipe(problem.data, {"search.batch_size": 48, "search.update": "joint"})
    require_equal_parts(joint, ["search"], data)
    as_one_of(monkeypatch, 0, 48)
    with pytest.raises(InputError, match="24 validation images are too few for 48 processes"):
        require_equal_parts(plan, ["train"], data)
    as_one_of(monkeypatch, 0, 5)
    with pytest.raises(InputError, match=r"search.batch_size is 48, but 5 processes need a multiple of 5"):
        require_equal_parts(plan, ["search"])


def test_every_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    as_one_of(monkeypatch, 5, 8)
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("auto", "cuda", "cuda:1"):
        assert find_device(name) == torch.device("cuda:1")
    with pytest.raises(InputError, match="several processes"):
        find_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="'cuda:1' is not there: 1 CUDA devices found"):
        find_device("auto")
    assert find_device("cpu") == torch.device("cpu")


# --- what they tell each other ---


def primitives(folder: Path) -> dict[str, Any]:
    with processes.joined():
        rank, count = processes.rank(), processes.count()
        x = torch.tensor([1.0, 2.0]) * (rank + 1)
        x.requires_grad_()
        y = processes.total(x[:, None].expand(2, 3).t())  # not contiguous
        (y.square().sum() * (rank + 1)).backward()  # type: ignore[no-untyped-call]
        strided = torch.arange(6.0).view(2, 3).t() * (rank + 1)
        found: dict[str, Any] = {"total": y[0].tolist(), "gradient": x.grad.tolist() if x.grad is not None else None}
        found["in place"] = (processes.total_(strided) is strided, strided.tolist())
        with processes.apart():
            found["apart"] = (processes.count(), processes.total_(torch.ones(1)).item())
        parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))]
        parameters.append(nn.Parameter(torch.zeros(2, dtype=torch.float64)))
        for index, parameter in enumerate(parameters):
            if index != 2:
                parameter.grad = torch.full_like(parameter, float(10**index * (rank + 1)))
        processes.average_gradients(parameters)
        found["average"] = [None if p.grad is None else p.grad.flatten().tolist() for p in parameters]
        values = [torch.full((2,), float(rank)), torch.tensor(rank), torch.full((2, 2), float(rank)).t()]
        processes.equalize(values)
        found["equal"] = [value.flatten().tolist() for value in values]
        found["agreed"] = processes.agreed(torch.tensor(float(rank))).item()
        found["smallest"] = processes.smallest(2**40 - rank)
        means = RunningMeans()
        for step in range(2):
            means.add({"loss": torch.tensor(float(rank + step))} | ({"rare": 4.0} if step else {}))
        found["means"] = means.means()
        found["first"] = processes.first_does(lambda: f"from {processes.rank()} of {processes.count()}")
        with processes.first_before_others():
            if rank:
                found["before"] = (folder / "unpacked").exists()
            else:
                time.sleep(0.2)
                (folder / "unpacked").touch()
        mine = folder / str(rank)
        mine.mkdir()
        if rank == 0:
            (mine / "full").write_bytes(bytes(range(256)))
            (mine / "empty").touch()
        else:
            (mine / "gone").touch()
        processes.copy_from_first(mine, ["full", "empty", "gone"])
        found["files"] = {path.name: path.read_bytes() for path in mine.iterdir()}
        processes.barrier()
        assert count == 3
    assert processes.count() == 1
    return found


def test_what_three_processes_tell_each_other(tmp_path: Path) -> None:
    answers = together(3, primitives, tmp_path)
    for found in answers:
        assert found["total"] == [6.0, 12.0]
        # Σ_p (p+1) · 2y, summed over the three columns that each value stands in
        assert found["gradient"] == [6 * 2 * 6.0 * 3, 6 * 2 * 12.0 * 3]
        assert found["in place"] == (True, [[0.0, 18.0], [6.0, 24.0], [12.0, 30.0]])
        assert found["apart"] == (1, 1.0)
        assert found["average"] == [[2.0] * 4, [20.0] * 3, None, [2000.0] * 2]
        assert found["equal"] == [[0.0] * 2, [0], [0.0] * 4]
        assert found["agreed"] == 1.0
        assert found["smallest"] == 2**40 - 2
        assert found["means"] == {"loss": 1.5, "rare": 4.0}
        assert found["first"] == "from 0 of 1"
        assert found["files"] == {"full": bytes(range(256)), "empty": b""}
    assert [found.get("before") for found in answers] == [None, True, True]


# --- the same as one process ---


def arrays(found: dict[str, Tensor]) -> dict[str, Array]:
    """Copies that can leave the process."""
    return {key: value.detach().double().numpy().copy() for key, value in found.items()}


def gradients_of(module: nn.Module, optimizers: Iterable[torch.optim.Optimizer], name: str) -> dict[str, Tensor]:
    """The gradients of all that these optimizers step, under a name."""
    stepped = {id(parameter) for parameter in parameters(optimizers)}
    named = [(key, p.grad) for key, p in module.named_parameters() if id(p) in stepped]
    return {f"{name} {key}": gradient for key, gradient in named if gradient is not None}


def search_gradients(data_path: Path, spike_levels: int = 1) -> dict[str, Array]:
    """The gradients of one step of each kind, and what they logged."""
    with processes.joined():
        changes = {"search.warmup_epochs": 0, "search.architecture_warmup_epochs": 0}
        plan = recipe(data_path, changes | {"model.spike_levels": spike_levels})
        data = load(plan.data)
        info = input_info(data)
        samples = Session().samples(data.train, info)
        supernet = build_supernet(plan, info.shape, len(info.classes)).double().train()
        state = SearchLoop(plan, supernet)
        batches = shuffled_batches(samples, 24, generator_for(0, "batches"), plan.augment)
        found: dict[str, Tensor] = {}
        draws = generator_for(0, "draws")
        steps = {"architecture": state.architecture_step, "weights": state.weight_step, "joint": state.joint_step}
        for name, step in steps.items():
            x, y = next(batches)
            means = RunningMeans()
            means.add(step(x.double(), y, draws, epoch=3))
            found |= {f"{name} {key}": torch.tensor(value) for key, value in means.means().items()}
            learning = [key for key in state.optimizers if name == "joint" or (key == "weights") == (name == "weights")]
            optimizers = [state.optimizers[key] for key in learning]
            found |= gradients_of(supernet, optimizers, name)
        found |= {f"multiplier {key}": torch.tensor(c.multiplier) for key, c in state.constraints.items()}
        found |= {f"rate {key}": torch.tensor(rate) for key, rate in state.rates.items()}
        return arrays(found | {f"after {key}": value for key, value in supernet.state_dict().items()})


def training_gradients(data_path: Path) -> dict[str, Array]:
    """The gradients of one step of training, and what it logged."""
    with processes.joined():
        plan = recipe(data_path, {"train.auxiliary_weight": 0.4, "train.firing_rate": 0.01})
        data = load(plan.data)
        info = input_info(data)
        samples = Session().samples(data.train, info)
        trainee = Trainee(build_network(genotype(levels=(0, 0, 1)), info, 0), plan).train()
        training = TrainLoop(trainee, plan)
        x, y = next(shuffled_batches(samples, 24, generator_for(0, "batches"), plan.augment))
        means = RunningMeans()
        means.add(training.step(x, y, 0.1))
        found = {key: torch.tensor(value) for key, value in means.means().items()}
        found |= gradients_of(trainee, training.optimizers.values(), "gradient")
        found["multiplier"] = torch.tensor(training.multipliers["bit_synops"])
        return arrays(found | {f"after {key}": value for key, value in trainee.state_dict().items()})


def gradients_of_graded_spikes(data_path: Path) -> dict[str, Array]:
    """Those of a search of graded spikes."""
    return search_gradients(data_path, 3)


@pytest.mark.parametrize(
    ("gradients", "precision"),
    [(search_gradients, 1e-6), (training_gradients, 1e-4), (gradients_of_graded_spikes, 1e-6)],
)
def test_gradients_are_those_of_one_process_with_the_whole_batch(
    problem: Problem, gradients: Callable[[Path], dict[str, Array]], precision: float
) -> None:
    """The search in double precision, so that the bound is tight and no spike hangs on a rounding."""
    alone = gradients(problem.data)
    assert sum(bool(np.abs(value).sum() > 0) for value in alone.values()) > 20
    for found in together(2, gradients, problem.data):
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            assert np.abs(found[key] - value).max() <= precision * max(np.abs(value).max(), 1e-3), key


def shared_counts(spike_levels: int) -> tuple[Any, Any]:
    """A lively network over 37 rows: an evaluation, and the validation of training."""
    with processes.joined():
        network = lively_network(genotype(spike_levels=spike_levels), tiny_input())
        pixels = torch.randint(-127, 128, (37, 2, 6, 5), generator=generator_for(0, "pixels")).to(torch.int8)
        samples = Samples(pixels, torch.arange(37) % 3)
        return measure(network, samples), validate(network, samples)


@pytest.mark.parametrize("spike_levels", [1, 3])
def test_several_processes_count_what_one_counts(spike_levels: int) -> None:
    measured, validated = shared_counts(spike_levels)
    others = ("virtual_synops", "virtual_bit_synops", "macs", "bit_macs", "spikes") if spike_levels > 1 else ()
    for theirs, theirs_validated in together(3, shared_counts, spike_levels):
        assert (theirs.accuracy_at, theirs.confusion) == (measured.accuracy_at, measured.confusion)
        assert theirs.loss == pytest.approx(measured.loss, rel=1e-6)
        for name in ("synops", "bit_synops", "rates", *others):
            assert getattr(theirs, name) == pytest.approx(getattr(measured, name), rel=1e-6)
            assert sum(getattr(theirs, name).values()) > 0
        assert theirs_validated == pytest.approx(validated, rel=1e-6)
