"""How many epochs there are when they take longer, or less time, than was planned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litesnn.training_loop.schedule import Schedule


@given(
    epochs=st.integers(1, 300),
    cuts=st.lists(st.tuples(st.integers(1, 299), st.floats(0.1, 100)), max_size=4),
    seconds=st.floats(1, 1e5),
)
def test_however_it_is_changed_the_way_is_continuous_rises_and_ends(
    epochs: int, cuts: list[tuple[int, float]], seconds: float
) -> None:
    schedule, spent, before = Schedule(epochs), 0.0, 0
    assert (schedule.at(0), schedule.at(epochs)) == (0.0, 1.0)
    for done, pace in sorted(cuts):
        if not before < done < schedule.epochs:
            continue
        spent += (done - before) * pace
        left = (schedule.epochs - done) * pace
        changed = schedule.within(seconds, spent, done, pace, most=epochs)
        if seconds / 1.15 <= spent + left <= 1.05 * seconds:
            assert changed is schedule
        if changed != schedule:
            assert done < changed.epochs <= epochs
            assert (changed.epochs < schedule.epochs) == (spent + left > seconds)
            assert spent + (changed.epochs - done) * pace <= seconds * (1 + 1e-9) or changed.epochs == done + 1
            assert spent + (changed.epochs + 1 - done) * pace > seconds * (1 - 1e-9) or changed.epochs == epochs
            assert changed.at(done) == pytest.approx(schedule.at(done))
        schedule, before = changed, done
        way = [schedule.at(done + (schedule.epochs - done) * step / 50) for step in range(51)]
        assert way == sorted(way)
        assert way[-1] == pytest.approx(1.0)
        assert 0 <= way[0] < 1


def test_a_schedule_by_hand() -> None:
    whole = Schedule(10)
    assert whole.at(2.5) == 0.25
    assert whole.within(100, 20, 2, 10.0, most=10) is whole  # just in time
    assert whole.within(96, 20, 2, 10.0, most=10) is whole  # late, but hardly
    assert whole.within(1000, 20, 2, 10.0, most=10) is whole  # there is time, but no more was planned
    assert whole.within(50, 20, 2, 10.0, most=10) == Schedule(5, 2, 0.2)
    assert whole.within(50, 60, 2, 10.0, most=10) == Schedule(3, 2, 0.2)  # too late: one more, that ends it well
    assert whole.within(50, 60, 9, 10.0, most=10) is whole
    shorter = Schedule(5, 2, 0.2)
    assert [shorter.at(2), shorter.at(3.5), shorter.at(5)] == pytest.approx([0.2, 0.6, 1.0])
    longer = shorter.within(1000, 30, 3, 1.0, most=10)
    assert (longer.epochs, longer.since) == (10, 3)
    assert longer.at(3) == pytest.approx(shorter.at(3))
    assert shorter.within(32.1, 30, 3, 1.0, most=10) is shorter  # one more would be late


def test_one_slow_epoch_is_not_expected_of_the_next_ones() -> None:
    whole = Schedule(10)
    assert whole.after(2, [10.0, 14.0], 100, most=10) == whole  # 24 s, and 80 s to come
    assert whole.after(2, [14.0, 14.0], 100, most=10) == Schedule(7, 2, 0.2)  # 28 s, and 5 epochs of 14 s
    assert whole.after(4, [10.0, 14.0, 14.0, 14.0], 100, most=10) == Schedule(7, 4, 0.4)  # the fast one is long ago
    assert whole.after(4, [14.0, 14.0, 14.0, 10.0], 100, most=10).epochs == 8
    assert whole.after(2, [50.0, 50.0], 0, most=10) is whole  # no bound


def test_a_change_is_said() -> None:
    fewer = Schedule(7, 2, 0.2).describe_change(Schedule(10))
    assert fewer == "steps take longer than planned: 7 epochs instead of 10"
    more = Schedule(9, 3, 0.4).describe_change(Schedule(7, 2, 0.2))
    assert more == "steps take less time than that: 9 epochs instead of 7"
