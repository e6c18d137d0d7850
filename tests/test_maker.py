"""Recipes that are made, for data that take no memory and steps that nobody measured."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from litesnn.budget import Budget
from litesnn.config import Recipe
from litesnn.costs import COSTS, Cost
from litesnn.data.audio import Recordings, Sound
from litesnn.data.augment import require_meaningful
from litesnn.data.survey import Advice
from litesnn.errors import InputError
from litesnn.front_end import LogMel
from litesnn.planning import maker
from litesnn.planning.macro import uniform_cost, uniform_synops
from litesnn.planning.maker import Estimate, Plan, foresee, renew_epochs
from litesnn.planning.mirror import MirrorTest
from litesnn.planning.timing import Pace
from litesnn.runs import RunFolder
from litesnn.search.derive import largest_candidate, require_possible, smallest_candidate, unused_budget
from litesnn.training_loop.session import Session, input_info
from made import data_of, plan_for, pretend
from tiny import genotype

COLOUR = data_of((3, 32, 32), rows=5000)
GREY = data_of((1, 8, 8), rows=600)


def value(recipe: Recipe, key: str) -> Any:
    found = reduce(getattr, key.split("."), recipe)
    return list(found) if isinstance(found, tuple) else found


def check(plan: Plan, said: Mapping[str, Any], seconds: float) -> None:
    """What holds of every recipe that is made."""
    recipe, data, info = plan.recipe, plan.data, input_info(plan.data)
    for key, wanted in said.items():
        if key == "budget":
            assert recipe.budget.model_dump(exclude_none=True) == wanted
        else:
            assert value(recipe, key) == wanted
    assert Recipe.from_toml(recipe.to_toml(plan.reasons)) == recipe
    require_possible(recipe, info)
    budget, reason = recipe.budget, plan.reasons["model.width"]
    if budget.packed_bytes is not None:
        largest = largest_candidate(recipe, info)
        assert smallest_candidate(recipe, info) <= budget.packed_bytes
        assert reason.startswith(f"the widest candidate fills {budget.packed_bytes:,} B") or re.match(
            r"a wider network would see|the widest candidate fills .* Bit-SynOps|no wider", reason
        )
        if largest < 0.8 * budget.packed_bytes:
            assert not reason.startswith(f"the widest candidate fills {budget.packed_bytes:,} B")
            assert f"the largest network of this recipe needs {largest:,} of " in "".join(unused_budget(recipe, info))
        elif recipe.model.width > 1:
            assert largest <= 1.8 * budget.packed_bytes
    assert recipe.timesteps <= (budget.timesteps or 4)
    if budget.bit_synops is not None and not info.frames:
        cheapest = uniform_synops(recipe, info, bits=1)
        assert recipe.timesteps == 1 or recipe.timesteps * cheapest <= budget.bit_synops
    if info.frames:
        assert recipe.timesteps == (budget.timesteps or 4)
    share = {"image": 8, "events": 16, "array": math.inf}[data.kind]
    assert recipe.augment.crop == round(min(data.shape[1:]) / share)
    assert recipe.augment.flip == data.colour
    assert recipe.model.spatial_edges >= 1
    assert "conv3x3" in recipe.model.ops
    assert recipe.search.warmup_epochs < recipe.search.epochs
    assert recipe.search.architecture_warmup_epochs < recipe.search.epochs
    for stage in (recipe.search, recipe.train):
        assert 2 <= stage.batch_size <= len(data.train.y)
        assert stage.epoch_steps is not None
        assert stage.epochs * stage.epoch_steps >= 10
    assert recipe.made is not None
    assert recipe.made.seconds == seconds
    assert recipe.made.epochs_follow
    assert (plan.estimate.total > seconds) == (len(plan.notes) == 1)
    assert plan.lines()
    assert all("\n" not in line for line in plan.lines())


@pytest.mark.parametrize("seconds", [60, 1800])
@pytest.mark.parametrize(
    ("shape", "classes", "rows", "kind", "budget"),
    [
        ((1, 8, 8), 2, 100, "image", {"packed_bytes": 2000}),
        ((1, 8, 8), 10, 1500, "image", {"packed_bytes": 64000, "timesteps": 2}),
        ((1, 28, 28), 10, 60000, "image", {"packed_bytes": 20000}),
        ((1, 28, 28), 2, 60000, "image", {"packed_bytes": 500_000, "bit_synops": 1e7, "timesteps": 6}),
        ((3, 32, 32), 10, 45000, "image", {"packed_bytes": 64000, "bit_synops": 1e6}),
        ((3, 32, 32), 100, 45000, "image", {"packed_bytes": 300_000}),
        ((3, 32, 96), 5, 900, "image", {"packed_bytes": 64000}),
        ((3, 64, 64), 2, 500, "image", {"packed_bytes": 8000, "timesteps": 1}),
        ((3, 224, 224), 100, 5000, "image", {"packed_bytes": 32000}),
        ((2, 34, 34), 10, 1000, "events", {"packed_bytes": 32000, "bit_synops": 2e7}),
        ((2, 128, 128), 11, 1200, "events", {"packed_bytes": 64000, "timesteps": 8}),
        ((1, 40, 98), 12, 20000, "array", {"packed_bytes": 30000}),
        ((1, 1, 20), 3, 300, "array", {"packed_bytes": 8000}),
        ((4, 5, 9), 3, 30, "array", {"packed_bytes": 4000, "bit_synops": 1e5}),
        ((1, 28, 28), 10, 4000, "image", {"bit_synops": 1e6}),
        ((1, 28, 28), 10, 4000, "image", {}),
    ],
)
def test_what_holds_of_every_made_recipe(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    classes: int,
    rows: int,
    kind: Any,
    budget: dict[str, Any],
    seconds: float,
) -> None:
    pretend(monkeypatch, data_of(shape, classes=classes, rows=rows, kind=kind))
    said = {"budget": budget} if budget else {}
    check(plan_for(said, seconds), said, seconds)


def test_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((1, 16, 16), classes=2, rows=300))
    said = {"budget": {"packed_bytes": 4_000_000}}
    plan = plan_for(said, 36000)
    check(plan, said, 36000)
    assert largest_candidate(plan.recipe, input_info(plan.data)) >= 3_200_000


@pytest.mark.job
@settings(max_examples=20)
@given(
    shape=st.tuples(st.sampled_from((1, 2, 3)), st.integers(1, 70), st.integers(1, 70)),
    classes=st.integers(2, 100),
    rows=st.integers(1, 200),
    kind=st.sampled_from(("image", "image", "array", "events")),
    packed=st.none() | st.integers(9, 16),
    work=st.none() | st.integers(4, 8),
    timesteps=st.none() | st.integers(1, 9),
    seconds=st.sampled_from((5, 100, 3600, 200_000)),
)
def test_any_data_and_budget_get_a_recipe_or_one_line(
    shape: tuple[int, int, int],
    classes: int,
    rows: int,
    kind: Any,
    packed: int | None,
    work: int | None,
    timesteps: int | None,
    seconds: float,
) -> None:
    if packed is None and work is None:
        packed = 14  # the widest that there is takes long to try
    limits = {
        "packed_bytes": None if packed is None else 2**packed,
        "bit_synops": None if work is None else 10.0**work,
        "timesteps": timesteps,
    }
    said = {"budget": {key: limit for key, limit in limits.items() if limit is not None}}
    data = data_of(shape, classes=classes, rows=classes + 2 * rows * rows, kind=kind)
    with pytest.MonkeyPatch.context() as monkeypatch:
        pretend(monkeypatch, data)
        need, plan = 0, None
        try:
            plan = plan_for(said, seconds)
        except InputError as error:
            need = needed(error)
        if plan is None:
            assert need > 2 ** (packed or 99)
        else:
            check(plan, said, seconds)


def needed(error: InputError) -> int:
    """What the smallest network needs, as the one line says."""
    found = re.fullmatch(
        r"the budget of \d+ B packed cannot be kept: the smallest network for \d+×\d+ inputs and \d+ classes"
        r"(?: with \S+ as said)? needs (\d+) B(?:; leave out \S+, and what fits is chosen)?",
        str(error),
    )
    assert found, str(error)
    return int(found[1])


@pytest.mark.job
@pytest.mark.parametrize(
    ("shape", "classes", "kind"),
    [((3, 32, 32), 100, "image"), ((2, 4, 5), 2, "events")],
)
def test_the_size_that_is_named_is_possible_and_a_byte_less_is_not(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], classes: int, kind: Any
) -> None:
    pretend(monkeypatch, data_of(shape, classes=classes, kind=kind))
    with pytest.raises(InputError) as caught:
        plan_for({"budget": {"packed_bytes": 100}})
    need = needed(caught.value)
    plan = plan_for({"budget": {"packed_bytes": need}})
    require_possible(plan.recipe, input_info(plan.data))
    with pytest.raises(InputError) as caught:
        plan_for({"budget": {"packed_bytes": need - 1}})
    assert needed(caught.value) == need


# --- what a person said ---


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("seed", 3),
        ("name", "mine"),
        ("budget.packed_bytes", 9000),
        ("data.validation_fraction", 0.3),
        ("augment.crop", 0),
        ("augment.flip", False),
        ("augment.cutout", 4),
        ("model.width", 5),
        ("model.levels", [0, 0]),
        ("model.stem_stride", 4),
        ("model.stem_channels", 3),
        ("model.ops", ["conv1x1", "conv3x3"]),
        ("model.nodes", 3),
        ("model.spatial_edges", 0),
        ("search.bits", [4]),
        ("search.keeps", [0.3]),
        ("search.widths", [1.0]),
        ("search.timesteps", 3),
        ("search.epochs", 3),
        ("search.epoch_steps", 2),
        ("search.batch_size", 50),
        ("search.update", "alternating"),
        ("search.mode", "paper"),
        ("train.epochs", 2),
        ("train.epoch_steps", 4),
        ("train.batch_size", 50),
        ("train.lr", 0.01),
        ("train.nesterov", False),
        ("train.momentum", 0.5),
        ("train.init", "normal"),
        ("model.spike_levels", 1),
    ],
)
def test_what_was_said_stays_and_has_no_reason(monkeypatch: pytest.MonkeyPatch, key: str, said: Any) -> None:
    pretend(monkeypatch, COLOUR)
    plan = plan_for({key: said})
    assert value(plan.recipe, key) == said
    assert key not in plan.reasons
    require_possible(plan.recipe, input_info(plan.data))


@pytest.mark.parametrize(
    ("said", "levels"),
    [({}, 3), ({"model.neuron": "plif"}, 3), ({"model.neuron": "lif-soft"}, 1), ({"search.mode": "paper"}, 1)],
)
def test_spikes_are_graded_where_neurons_can(
    monkeypatch: pytest.MonkeyPatch, said: Mapping[str, Any], levels: int
) -> None:
    pretend(monkeypatch, COLOUR)
    plan = plan_for(said)
    assert plan.recipe.model.spike_levels == levels
    assert ("model.spike_levels" in plan.reasons) == (levels == 3)


def test_whole_tables_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    plan = plan_for({"augment": {"cutout": 3}, "train": {"epochs": 5}})
    plain = Recipe.from_toml("")
    assert plan.recipe.augment == plain.augment.model_copy(update={"cutout": 3})
    assert plan.recipe.train == plain.train.model_copy(update={"epochs": 5})
    assert not [key for key in plan.reasons if key.startswith(("augment", "train"))]


@pytest.mark.parametrize(
    ("key", "said", "complaint"),
    [
        ("search.epoch", 3, "the made recipe: unknown key 'search.epoch'"),
        ("search.epochs", 0, "the made recipe: search.epochs: "),
        ("train.momentum", 0, "nesterov needs a momentum above 0"),
    ],
)
def test_what_is_not_valid_is_refused(monkeypatch: pytest.MonkeyPatch, key: str, said: Any, complaint: str) -> None:
    pretend(monkeypatch, COLOUR)
    with pytest.raises(InputError) as caught:
        plan_for({key: said})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_said_timesteps_are_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 4 timesteps takes four times as long as the time would allow, and the estimate says so."""
    pretend(monkeypatch, COLOUR, step=0.1)
    free, said = plan_for({}, 600), plan_for({"search.timesteps": 4}, 600)
    assert free.recipe.search.timesteps == 1
    assert said.recipe.search.timesteps == 4
    epochs = [plan.recipe.train.epochs * (plan.recipe.train.epoch_steps or 0) for plan in (free, said)]
    seconds = [plan.estimate.seconds["training"] for plan in (free, said)]
    assert seconds[1] == pytest.approx(seconds[0], rel=0.2)
    assert epochs[1] < epochs[0]


def test_said_epochs_of_the_search_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    free = plan_for({}).recipe.search
    assert free.epochs > 5
    for epochs in (5, 2 * free.epochs):
        plan = plan_for({"search.epochs": epochs})
        made = plan.recipe.search
        assert made.epochs == epochs
        assert 1 <= (made.epoch_steps or 0) <= 86
        assert plan.estimate.seconds["search"] <= 0.25 * 1800
        assert made.warmup_epochs == made.architecture_warmup_epochs == epochs // 5
    assert plan_for({"search.epochs": 1}).recipe.search.epochs == 1


@pytest.mark.parametrize("key", ["train.epochs", "train.epoch_steps"])
def test_said_epochs_of_training_do_not_follow(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    pretend(monkeypatch, COLOUR)
    made = plan_for({key: 7}).recipe.made
    assert made is not None
    assert not made.epochs_follow


def test_paper_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    search = plan_for({"search.mode": "paper"}).recipe.search
    assert (search.mode, search.keeps, search.widths, search.sampling) == ("paper", (0.2,), (1.0,), False)


# --- what follows from the data ---


def test_without_a_limit_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    plan = plan_for({})
    assert plan.recipe.budget.model_dump(exclude_none=True) == {"packed_bytes": 64000}
    assert plan.reasons["budget.packed_bytes"].startswith("no limit was said")
    assert plan.reasons["search.timesteps"]


@pytest.mark.parametrize("budget", [{"timesteps": 2}, {"bit_synops": 1e9}])
def test_where_no_bytes_are_said_some_are_aimed_at_and_none_are_a_limit(
    monkeypatch: pytest.MonkeyPatch, budget: dict[str, float]
) -> None:
    pretend(monkeypatch, data_of((1, 32, 32), classes=2, rows=100))
    plan, limited = plan_for({"budget": budget}), plan_for({"budget": budget | {"packed_bytes": 64000}})
    assert plan.recipe.budget.packed_bytes is None
    assert plan.recipe.model == limited.recipe.model
    assert plan.reasons["model.width"] == "the widest candidate fills 64,000 B"


def test_without_bytes_a_tight_limit_on_work_costs_no_more_resolution_than_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, data_of((1, 32, 32)))
    free, limited = (
        plan_for({"budget": {"bit_synops": 2e6} | size}).recipe.model for size in ({}, {"packed_bytes": 64000})
    )
    assert (free.stem_stride, free.levels) == (limited.stem_stride, limited.levels)


def test_little_time_is_spent_on_deep_cells_of_4_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes over the data on large maps are worth less than more of them on small ones with as many bytes."""
    pretend(monkeypatch, COLOUR)
    much, little = plan_for({}, 36000), plan_for({}, 50)
    assert (much.recipe.model.levels, much.recipe.search.bits) == ((1, 1, 2, 2), (1, 2))
    assert (little.recipe.model.levels, little.recipe.search.bits) == ((0, 1, 1, 2), (1, 2, 4))
    assert little.recipe.model.stem_stride == 2
    for plan in (much, little):
        assert largest_candidate(plan.recipe, input_info(plan.data)) >= 0.9 * 64000
    assert "too seldom" in little.reasons["model.levels"]
    assert plan_for({"search.bits": [1]}, 50).recipe.model.levels == much.recipe.model.levels


def test_a_network_that_time_makes_narrow_may_have_more_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    for seconds in (20, 40):
        recipe = plan_for({}, seconds).recipe
        assert "would see" in plan_for({}, seconds).reasons["model.width"]
        assert recipe.search.bits == (1, 2, 4)


def test_few_rows_get_steps_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 epochs of a search and 300 of training are few steps of 42 rows."""
    pretend(monkeypatch, data_of((1, 8, 8), classes=2, rows=42), step=0.001)
    recipe = plan_for({}, 180).recipe
    assert recipe.search.epochs * (recipe.search.epoch_steps or 0) >= 500
    assert recipe.train.epochs * (recipe.train.epoch_steps or 0) >= 3000


def test_mirroring_follows_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    for mirrored in (True, False):
        pretend(monkeypatch, COLOUR)
        found = MirrorTest(0.9, 0.9 if mirrored else 0.4, 0.1, 1000)
        monkeypatch.setattr("litesnn.planning.mirror.compare_mirrored", lambda _, found=found: found)
        plan = plan_for({})
        assert plan.recipe.augment.flip == mirrored
        assert ("harmless" if mirrored else "may do harm") in plan.reasons["augment.flip"]
    monkeypatch.setattr(maker, "why_mirror", lambda _: pytest.fail("it was measured though it was said"))
    assert plan_for({"augment.flip": True}).recipe.augment.flip


@pytest.mark.parametrize("noise", [False, True])
def test_sound_is_shifted_and_masked(monkeypatch: pytest.MonkeyPatch, noise: bool) -> None:
    data = data_of((1, 40, 98), rows=900, kind="array")
    sound = Sound(cast(Recordings, None), (lambda: torch.zeros(9, dtype=torch.int16)) if noise else None)
    pretend(monkeypatch, replace(data, train=replace(data.train, sound=sound), front_end=LogMel()))
    plan = plan_for({})
    found = plan.recipe.augment
    assert (found.shift_ms, found.time_mask, found.frequency_mask, found.masks) == (100.0, 20, 3, 2)
    assert (found.crop, found.flip, found.cutout) == (0, False, 0)
    assert found.noise == (0.1 if noise else 0)
    require_meaningful(found, "array", sound=True, noise=noise, origin="it")
    assert plan_for({"audio.clip_ms": 400.0}).recipe.augment.shift_ms == 40


def test_arrays_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((3, 20, 20), kind="array"))
    plan = plan_for({})
    assert plan.recipe.augment == Recipe.from_toml("").augment
    assert "nobody knows" in plan.reasons["augment.crop"]
    assert "changes    none to training inputs" in plan.lines()


def test_advice_of_the_survey_is_taken_unless_it_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    monkeypatch.setattr(maker, "suggest_settings", lambda *_, **__: {"data.size": Advice(48, "they differ in size")})
    plan = plan_for({})
    assert plan.recipe.data.size == 48
    assert plan.reasons["data.size"] == "they differ in size"
    assert plan_for({"data.size": 30}).recipe.data.size == 30


@pytest.mark.parametrize(
    ("rows", "workers", "size"),
    [
        (30000, 1, 128),
        (2000, 1, 64),
        (100, 1, 32),
        (40, 1, 20),
        (30, 1, 15),
        (5, 1, 2),
        (30000, 3, 126),
        (30, 2, 14),
        (2000, 6, 60),
        (10, 8, 8),
    ],
)
def test_batches_can_be_shared(monkeypatch: pytest.MonkeyPatch, rows: int, workers: int, size: int) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), classes=2, rows=rows))
    recipe = plan_for({}, workers=workers).recipe
    assert recipe.train.batch_size == recipe.search.batch_size == size
    assert size % workers == 0


# --- what the time allows ---


def test_more_time_gives_more_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((3, 32, 32), rows=20000), step=0.05)
    plans = [plan_for({"budget": {"packed_bytes": 100_000}}, 10.0**power) for power in (1, 2, 3, 4, 5)]
    for name in ("width", "timesteps", "search", "train"):
        found = []
        for plan in plans:
            recipe = plan.recipe
            steps = {
                "width": recipe.model.width,
                "timesteps": recipe.timesteps,
                "search": recipe.search.epochs * (recipe.search.epoch_steps or 0),
                "train": recipe.train.epochs * (recipe.train.epoch_steps or 0),
            }
            found.append(steps[name])
        if name in ("search", "train"):  # of other networks, which take longer
            assert found[0] < found[-1]
        else:
            assert found == sorted(found)
            assert found[0] < found[-1]
    assert [bool(plan.notes) for plan in plans] == [True, False, False, False, False]
    assert plans[0].notes[0].startswith("the least that can be done takes about ")
    assert plans[0].notes[0].endswith(", longer than the 10 s that there are")
    assert "would see the data only" in plans[1].reasons["model.width"]
    for plan in plans[1:4]:
        assert 0.6 * 1 < plan.estimate.total / (plan.recipe.made.seconds if plan.recipe.made else 0) <= 1


def test_the_time_that_has_gone_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR, step=0.1)
    fresh, late = plan_for({}, 1000), plan_for({}, 1000, spent=500.0)
    assert late.estimate.seconds["reading and planning"] >= 500
    assert late.estimate.total <= 1000
    assert late.estimate.seconds["training"] < 0.7 * fresh.estimate.seconds["training"]
    assert late.recipe.made is not None
    assert late.recipe.made.spent >= 500


def test_a_machine_that_is_busy_just_now_gets_no_other_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The width follows what a step takes at its best, the epochs what it takes as a rule."""
    pretend(monkeypatch, COLOUR, step=0.2)
    quiet = plan_for({}, 600)
    calm: Any = vars(maker)["train_pace"]

    def busy(*arguments: Any, **options: Any) -> Pace:
        pace: Pace = calm(*arguments, **options)
        return replace(pace, step=3 * pace.step)

    monkeypatch.setattr(maker, "train_pace", busy)
    loud = plan_for({}, 600)
    assert loud.recipe.model == quiet.recipe.model
    assert loud.recipe.timesteps == quiet.recipe.timesteps
    done = [plan.recipe.train.epochs * (plan.recipe.train.epoch_steps or 0) for plan in (quiet, loud)]
    assert done[1] < 0.5 * done[0]


def test_epochs_are_passes_or_parts_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((3, 32, 32), rows=45000), step=0.05)
    short, long = plan_for({}, 60).recipe.train, plan_for({}, 36000).recipe.train
    assert short.epochs == 10
    assert (short.epoch_steps or 0) < 45000 // 128
    assert long.epochs > 10
    assert long.epoch_steps == 45000 // 128


def test_memory_is_that_of_the_larger_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    assert plan_for({}).estimate.memory == 2 * 10**8


def test_an_estimate_in_words() -> None:
    estimate = Estimate({"search": 300.0, "training": 1200.0}, 1_230_000_000)
    assert estimate.describe() == "about 25 min (search 5 min, training 20 min), and 1.2 GB of memory for a step"


def test_a_written_recipe_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, GREY, step=0.016, image=0.0)
    recipe = Recipe.from_toml(
        "[model]\nwidth = 16\n[search]\nepochs = 3\nbatch_size = 100\ntimesteps = 2\nupdate = 'joint'\n"
        "[train]\nepochs = 5\nbatch_size = 60\nepoch_steps = 4"
    )
    plan = foresee(recipe, GREY, Session())
    assert plan.recipe == recipe
    assert (plan.reasons, plan.notes) == ({}, ())
    assert plan.estimate.seconds["search"] == pytest.approx(3 * 6 * 2 * 0.016)  # 666 rows
    assert plan.estimate.seconds["training"] == pytest.approx(5 * 4 * 2 * 0.0176)
    assert plan.lines()


def test_a_search_of_large_data_is_no_longer_than_it_must_be_where_training_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, data_of((3, 32, 32), rows=45_000), step=0.3)
    said = {"model.width": 14, "search.timesteps": 1}
    short, long = plan_for(said, 2400), plan_for(said, 24000)
    steps = [plan.recipe.search.epochs * (plan.recipe.search.epoch_steps or 0) for plan in (short, long)]
    assert 500 <= steps[0] <= 600
    assert short.reasons["search.epochs"].startswith("training needs the time more")
    assert steps[1] > 5000
    assert "training needs" not in long.reasons["search.epochs"]


@pytest.mark.parametrize("rows", [42, 100, 200])
def test_small_data_get_steps_enough(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), classes=2, rows=rows))
    recipe = plan_for({}, 180).recipe
    assert 150 <= recipe.search.epochs * (recipe.search.epoch_steps or 0) <= 600
    assert 1000 <= recipe.train.epochs * (recipe.train.epoch_steps or 0) <= 3000
    assert recipe.timesteps == 4


def test_larger_data_get_no_more_passes_than_are_useful(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), rows=1500), step=1e-4)
    plan = plan_for({}, 36000)
    assert (plan.recipe.search.epochs, plan.recipe.train.epochs) == (40, 300)
    assert plan.reasons["train.epochs"].startswith("more are of no use")
    assert plan.reasons["search.epochs"].startswith("longer searches are of no use")


def test_the_checkpoints_of_short_epochs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), classes=2, rows=42), step=0.001, image=0.0)
    for name in ("train_pace", "search_pace"):
        free: Any = vars(maker)[name]
        monkeypatch.setattr(maker, name, lambda *a, free=free, **o: replace(free(*a, **o), epoch=0.1))
    plan = plan_for({}, 100)
    assert plan.estimate.seconds["training"] >= 0.1 * plan.recipe.train.epochs
    assert plan.estimate.seconds["search"] >= 0.1 * plan.recipe.search.epochs
    assert 60 < plan.estimate.total <= 100


def test_most_of_a_minute_is_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), rows=1500), step=0.02)
    calm: Any = vars(maker)["train_pace"]
    measured: list[float] = []

    def train_pace(*arguments: Any, seconds: float, **options: Any) -> Pace:
        measured.append(seconds)
        pace: Pace = calm(*arguments, **options)
        return pace

    monkeypatch.setattr(maker, "train_pace", train_pace)
    plan = plan_for({}, 60)
    assert plan.estimate.seconds["training"] > 30
    assert plan.estimate.total <= 60
    assert set(measured) == {1.0}
    plan_for({}, 6000)
    assert measured[-1] >= 2


def test_the_least_sensible_time_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, data_of((1, 8, 8), rows=1500))
    plan = plan_for({"model.width": 16, "search.timesteps": 2}, 60)
    least = (150 * 0.02 + 1000 * 0.022) / 0.96 + plan.estimate.seconds["the rest"]
    assert plan.estimate.least == pytest.approx(least + plan.estimate.seconds["reading and planning"])
    assert re.search(r"; in less than (3|4)\d s it would hardly learn$", plan.estimate.describe())


@pytest.mark.parametrize(("step", "timesteps"), [(0.077, 2), (0.04, 4)])
def test_noise_of_a_measurement_does_not_choose_the_timesteps(
    monkeypatch: pytest.MonkeyPatch, step: float, timesteps: int
) -> None:
    found = {}
    for noise in (0.8, 0.9, 1.0, 1.1, 1.2):
        pretend(monkeypatch, COLOUR, step=noise * step)
        plan = plan_for({"model.width": 16})
        found[noise] = plan.recipe.timesteps
        if timesteps < 4:
            assert plan.reasons["search.timesteps"] == (
                "4 would be tried, but the time allows 2: "
                "with more, training would see the data clearly fewer than 100 times"
            )
    assert set(found.values()) == {timesteps}, found


@pytest.mark.parametrize("cost", [row for row in COSTS.values() if row.price], ids=lambda cost: cost.key)
def test_every_limit_bounds_the_width(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> None:
    pretend(monkeypatch, GREY, step=0.001)
    wide = plan_for({"budget": {"packed_bytes": 200_000}, "search.timesteps": 1}).recipe
    limited = wide.model_copy(update={"budget": Budget.model_validate({cost.key: 1e9})})
    limit = 0.2 * uniform_cost(cost, limited, input_info(GREY), bits=1 if cost.is_work else 2)
    budget = {cost.key: int(limit) if cost.whole else limit}
    plan = plan_for({"budget": {"packed_bytes": 200_000} | budget, "search.timesteps": 1})
    assert plan.recipe.model.width < wide.model.width or plan.recipe.model.stem_stride > wide.model.stem_stride
    if cost.key != "packed_bytes":
        assert plan.reasons["model.width"] == f"the widest candidate fills {cost.say(budget[cost.key])}"


def test_what_the_bit_synops_allow_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, GREY)
    one = uniform_synops(plan_for({"budget": {"bit_synops": 2e6}}).recipe, input_info(GREY), bits=1)
    said = {"budget": {"bit_synops": 2e6, "timesteps": 9}, "model.width": 16}
    plan = plan_for(said)
    assert one > 0
    assert re.fullmatch(
        rf"the budget allows 9, but 2 M Bit-SynOps allow {plan.recipe.timesteps}", plan.reasons["search.timesteps"]
    )


def test_more_timesteps_than_the_budget_allows_are_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, GREY)
    plan = plan_for({"search.timesteps": 4, "budget": {"packed_bytes": 64000, "timesteps": 2}})
    assert plan.notes == ("search.timesteps is 4, but the budget allows 2: T <= 2",)
    assert plan_for({"search.timesteps": 2, "budget": {"packed_bytes": 64000, "timesteps": 2}}).notes == ()


@pytest.mark.parametrize("epochs", [20, 4000])
def test_said_epochs_of_training_share_its_time(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    pretend(monkeypatch, COLOUR, image=0.0)
    free, plan = plan_for({}, 600), plan_for({"train.epochs": epochs}, 600)
    steps = plan.recipe.train.epoch_steps or 0
    assert steps == 78 if epochs == 20 else 1 <= steps < 78
    assert plan.estimate.seconds["training"] <= 1.02 * free.estimate.seconds["training"]
    assert plan.estimate.total <= 600


def test_said_steps_of_an_epoch_give_more_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR, image=0.0)
    free = plan_for({}, 600)
    plan = plan_for({"train.epoch_steps": 7, "search.epoch_steps": 7}, 600)
    for stage in ("search", "training"):
        assert plan.estimate.seconds[stage] == pytest.approx(free.estimate.seconds[stage], rel=0.15)


def test_a_search_has_one_and_a_half_of_its_share_before_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    made = plan_for({}, 1000).recipe.made
    assert made is not None
    assert 250 <= made.search <= 300
    for key in ("search.epochs", "search.epoch_steps"):
        made = plan_for({key: 7}, 1000).recipe.made
        assert made is not None
        assert made.search == 0


# --- reasons in the file ---


def test_every_reason_stands_above_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, COLOUR)
    monkeypatch.setattr(maker, "suggest_settings", lambda *_, **__: {"data.size": Advice(32, "so " * 90)})
    plan = plan_for({})
    found, section, comment = {}, "", ""
    for line in plan.recipe.to_toml(plan.reasons).splitlines():
        assert len(line) <= 120 or " = " in line
        if line.startswith("["):
            section = line.strip("[]") + "."
        if line.startswith("#"):
            comment += line[1:]
        elif comment:
            found[section + line.partition(" = ")[0]] = " ".join(comment.split())
            comment = ""
    assert found == {key: " ".join(reason.split()) for key, reason in plan.reasons.items()}
    assert len(found) > 10


# --- epochs anew ---


def made_run(folder: Path, changes: Mapping[str, Any], seconds: list[float] | None) -> RunFolder:
    """A run as the derivation leaves it, with a search whose epochs took so long; ``None``: there is no log."""
    run = RunFolder(folder)
    made = {"made.seconds": 1000.0, "made.spent": 40.0, "train.epochs": 10, "train.epoch_steps": 7}
    recipe = Recipe.from_toml("", changes={"train.batch_size": 60} | made | dict(changes))
    run.begin(recipe, {"train.epochs": "an old reason", "train.lr": "another one", "made.seconds": "it was said"})
    run.output("derive").write_text(genotype().to_json())
    if seconds is not None:
        rows = [{"epoch": epoch + 1, "seconds": taken} for epoch, taken in enumerate(seconds)]
        (run / "search.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def renewed(run: RunFolder, monkeypatch: pytest.MonkeyPatch, step: float) -> Recipe:
    monkeypatch.setattr(maker, "train_pace", lambda *_, **__: Pace(step, step, 0.0, 0))
    renew_epochs(run, GREY, Session())
    return run.recipe()


TAIL = maker._REST_SECONDS + 10 * GREY.train.x.numel() / 16e6


def test_epochs_follow_what_is_left_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, {}, [50.0, 70.0])
    before = (run / "recipe.toml").read_text()
    recipe = renewed(run, monkeypatch, 0.5)
    left = 0.96 * (1000 - 40 - 120) - TAIL
    assert recipe.made is not None
    assert recipe.made.training == round(left)
    assert (recipe.train.epochs, recipe.train.epoch_steps) == (int(left / (10 * 0.5)), 10)
    after = (run / "recipe.toml").read_text()
    changed = [line for line in after.splitlines() if line not in before.splitlines()]
    assert [line.partition(" = ")[0] for line in changed if not line.startswith("#")] == [
        "epochs",
        "epoch_steps",
        "training",
        "most_epochs",
    ]
    assert recipe.made.most_epochs == 300
    assert "# what was left of the time after the search allows at 0.5 s a step\nepochs = " in after
    assert "an old reason" not in after
    assert "# another one\nlr = " in after
    assert "# it was said\nseconds = " in after
    assert len(after.splitlines()) == len(before.splitlines())
    assert tomllib.loads(after)


def test_little_time_gives_short_epochs_and_none_gives_the_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = renewed(made_run(tmp_path / "a", {}, [300.0]), monkeypatch, 20.0)
    assert (recipe.train.epochs, recipe.train.epoch_steps) == (10, 3)
    recipe = renewed(made_run(tmp_path / "b", {}, [5000.0]), monkeypatch, 20.0)
    assert (recipe.train.epochs, recipe.train.epoch_steps) == (10, 1)
    assert recipe.made is not None
    assert recipe.made.training == 1


@pytest.mark.parametrize("seconds", [None, []])
def test_a_log_that_was_lost_is_taken_to_be_as_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: list[float] | None
) -> None:
    recipe = renewed(made_run(tmp_path, {}, seconds), monkeypatch, 0.5)
    assert recipe.made is not None
    assert recipe.made.training == round(0.96 * (1000 - 40 - 200) - TAIL)


@pytest.mark.parametrize("text", ["nonsense\n", '{"epoch": 1}\n', "[]\n", '{"epoch": 1, "seconds": "long"}\n'])
def test_a_damaged_log_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    run = made_run(tmp_path, {}, [])
    (run / "search.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"search\.jsonl is damaged: "):
        renewed(run, monkeypatch, 0.5)


@pytest.mark.parametrize("changes", [{"made.epochs_follow": False}, {"made": None}])
def test_said_epochs_and_written_recipes_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    run = made_run(tmp_path, changes, [50.0])
    before = (run / "recipe.toml").read_bytes()
    renewed(run, monkeypatch, 0.5)
    assert (run / "recipe.toml").read_bytes() == before


def test_epochs_that_nobody_can_know_wait_for_the_derivation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, {}, [50.0])
    run.output("derive").unlink()
    with pytest.raises(InputError, match=r"genotype\.json is missing"):
        renewed(run, monkeypatch, 0.5)
