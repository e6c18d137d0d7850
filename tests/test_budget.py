from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from litesnn.budget import Budget, parse_bytes
from litesnn.costs.work import BIT_SYNOPS
from litesnn.errors import InputError


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("8 kB, 1 M Bit-SynOps, T <= 4", (8000, 1e6, 4)),
        ("T <= 4, 1 M Bit-SynOps, 8 kB", (8000, 1e6, 4)),
        ("48 kB packed, 20 M Bit-SynOps, T <= 6", (48000, 2e7, 6)),
        ("8kb", (8000, None, None)),
        ("8 KiB", (8192, None, None)),
        ("2 MiB", (2 * 2**20, None, None)),
        ("1 MB", (10**6, None, None)),
        ("0.5 GB", (5 * 10**8, None, None)),
        ("packed 1.5 kB", (1500, None, None)),
        ("1.001 kB", (1001, None, None)),
        ("4.35 kB", (4350, None, None)),
        ("1e3 bytes", (1000, None, None)),
        ("1 byte", (1, None, None)),
        ("700 B packed", (700, None, None)),
        ("3 bit-synops", (None, 3, None)),
        ("2.5 G BitSynOps per inference", (None, 2.5e9, None)),
        ("20 k Bit-SynOp", (None, 20000, None)),
        ("1e6 Bit-SynOps", (None, 1e6, None)),
        ("T=4", (None, None, 4)),
        ("T ≤ 4", (None, None, 4)),
        ("at most 4 timesteps", (None, None, 4)),
        ("1 timestep", (None, None, 1)),
        (" T <= 64 , 9 B ", (9, None, 64)),
    ],
)
def test_what_people_write(text: str, limits: tuple[int | None, float | None, int | None]) -> None:
    budget = Budget.parse(text)
    assert (budget.packed_bytes, budget.bit_synops, budget.timesteps) == limits


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "''"),
        ("8 kB,", "''"),
        ("8 apples", "'8 apples'"),
        ("8 kB, fast", "'fast'"),
        ("-8 kB", "'-8 kB'"),
        ("kB", "'kB'"),
        ("8 k", "'8 k'"),
        ("1.5 timesteps", "'1.5 timesteps'"),
        ("8 kB, 9 kB", "packed bytes"),
        ("T <= 3, 4 timesteps", "timesteps"),
        ("0 kB", "'0 kB'"),
        ("0.5 B", "'0.5 B'"),
        ("0 Bit-SynOps", "'0 Bit-SynOps'"),
        ("T <= 0", "'T <= 0'"),
        ("T <= 65", "65"),
        ("-T <= 4", "'-T <= 4' must be greater than zero"),
        ("8 kB, 4", "'4' of '8 kB, 4' is a number without a unit"),
        ("at most 4", "'at most 4'"),
        ("1e400 kB", "1e400"),
        ("1e400 Bit-SynOps", "1e400"),
    ],
)
def test_what_is_not_understood_is_named_in_one_line(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        Budget.parse(text)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_number_is_no_limit_and_the_words_that_are_understood_are_named() -> None:
    with pytest.raises(InputError) as caught:
        Budget.parse("8")
    said = str(caught.value)
    assert said.startswith("budget part '8' of '8' is a number without a unit; expected ")
    for word in ("bytes", "kB", "KiB", "Bit-SynOps", "timesteps", "T <= 4"):
        assert word in said


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1,5 MB", "as in 1.5"),
        ("8 kB, 1,5 M Bit-SynOps", "as in 1.5"),
        ("packed 1,5 kB", "as in 1.5"),
        ("1,000 B", "as in 1000 or 1.000"),
        ("20,000 Bit-SynOps, T <= 4", "as in 20000 or 20.000"),
        ("1,000,000 Bit-SynOps", "as in 1000000"),
        ("1,000.5 kB", "as in 1000.5"),
        ("1.000,5 kB", "a point before decimals"),
        ("T <= 1,5 MB", "as in 1.5"),
        ("T <= 1,000 B", "as in 1000 or 1.000"),
    ],
)
def test_a_comma_in_a_number_is_never_read_as_two_limits(text: str, written: str) -> None:
    for read in (Budget.parse, parse_bytes):
        with pytest.raises(InputError) as caught:
            read(text)
        assert repr(text) in str(caught.value)
        assert "has a comma inside; expected a number without it" in str(caught.value)
        assert str(caught.value).endswith(written)


@given(
    st.none() | st.integers(1, 10**12),
    st.none() | st.floats(1e-3, 1e18),
    st.none() | st.integers(1, 64),
)
def test_a_described_budget_reads_back(packed: int | None, synops: float | None, timesteps: int | None) -> None:
    budget = Budget(packed_bytes=packed, bit_synops=synops, timesteps=timesteps)
    if packed is synops is timesteps is None:
        assert budget.describe() == "no limits"
        return
    found = Budget.parse(budget.describe())
    assert (found.packed_bytes, found.timesteps) == (packed, timesteps)
    assert found.bit_synops == (None if synops is None else pytest.approx(synops, rel=1e-14))


def test_describe_by_hand() -> None:
    assert Budget(packed_bytes=8000, bit_synops=1e6, timesteps=4).describe() == (
        "8000 B packed, 1000000 Bit-SynOps, T <= 4"
    )


@pytest.mark.parametrize(
    "limits", [{"packed_bytes": 0}, {"bit_synops": 0}, {"timesteps": 0}, {"timesteps": 65}, {"bytes": 3}]
)
def test_limits_are_validated(limits: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Budget.model_validate(limits)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (2e6, "2 M"),
        (1.2345e7, "12.3 M"),
        (999_999, "1 M"),
        (20_000, "20 k"),
        (999.9, "1 k"),
        (5, "5"),
        (3e12, "3,000 G"),
    ],
)
def test_bit_synops_in_words(count: float, words: str) -> None:
    assert BIT_SYNOPS.say(count) == f"{words} Bit-SynOps"
