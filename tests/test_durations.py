from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litesnn.durations import describe_duration, parse_duration
from litesnn.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30 min", 1800),
        ("30min", 1800),
        (" 30 Min ", 1800),
        ("1 minute", 60),
        ("2 minutes", 120),
        ("3 mins", 180),
        ("5 m", 300),
        ("90 s", 90),
        ("90s", 90),
        ("5 secs", 5),
        ("1 second", 1),
        ("1.5 h", 5400),
        ("0.5 s", 0.5),
        ("2 hours", 7200),
        ("1 h 30 min", 5400),
        ("1h30m", 5400),
        ("1 h, 30 min", 5400),
        ("1 day 1 hour 1 min 1 s", 90061),
        ("366 days", 366 * 86400),
    ],
)
def test_what_people_write(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "-", "30", "-30", "min", "+5 min", "1e9 h", "1e3 s", ".5 h", "1. h", "--5 min"),
        *("nan h", "inf h", "nan", "five minutes", "30 min and", "30 min 5", "30 x", "30 min x", "30 - 40 min"),
        *("5 ms", "5 hs", "5 weeks", "30:00", "30 min\n1 h"),
    ],
)
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_duration(text)
    assert str(caught.value).startswith(f"time {text!r} is not understood; expected ")
    assert "'30 min'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-5 min", "is not longer than zero"),
        ("- 1 h 30 min", "is not longer than zero"),
        ("0 min", "is not longer than zero"),
        ("0 h 0 s", "is not longer than zero"),
        ("367 days", "is longer than a year"),
        ("9" * 400 + " s", "is longer than a year"),
    ],
)
def test_a_time_that_is_understood_and_impossible_has_a_message_of_its_own(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_duration(text)
    assert str(caught.value).startswith(f"time {text!r} {said}; expected ")


def test_a_decimal_comma_is_named() -> None:
    with pytest.raises(InputError, match=r"^time '1,5 h': '1,5' has a comma inside; expected .* as in 1\.5$"):
        parse_duration("1,5 h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (7, "7 s"),
        (99.4, "99 s"),
        (99.6, "1.7 min"),
        (100, "1.7 min"),
        (120, "2 min"),
        (150, "2.5 min"),
        (596, "9.9 min"),
        (600, "10 min"),
        (1800, "30 min"),
        (5969, "99 min"),
        (5970, "1 h 40 min"),
        (7190, "2 h"),
        (7200, "2 h"),
        (9000, "2 h 30 min"),
        (360000, "100 h"),
    ],
)
def test_how_it_is_said(seconds: float, text: str) -> None:
    assert describe_duration(seconds) == text


@given(st.floats(10, 366 * 86400 - 60))
def test_what_is_said_can_be_read_and_is_near(seconds: float) -> None:
    assert parse_duration(describe_duration(seconds)) == pytest.approx(seconds, rel=0.051)
