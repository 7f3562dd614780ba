from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import ConfigError
from concordant.core.events import BIRTH_CODES, Events
from concordant.encoders.base import ENCODERS

NONE = math.nan


def record(*rows):
    """Rows are (days before, code, value); None days = static."""
    days = np.array([NONE if day is None else day for day, _, _ in rows], dtype=np.float64)
    values = np.array([NONE if value is None else value for _, _, value in rows], dtype=np.float64)
    return Events(days, tuple(code for _, code, _ in rows), values)


RECORD = record(
    (None, "GENDER//F", None),
    (365.25 * 60, "MEDS_BIRTH", None),
    (400, "DX//I26", None),
    (100, "LAB//K", 4.0),
    (30, "LAB//K", 5.5),
    (20, "DX//I26", None),
    (10, "LAB//K", None),
    (0, "MEDS_DEATH//hospital", None),
    (0, "MEDS_DEATH", None),
)


def encode(name, given, **options):
    (embedding,) = ENCODERS.create(name, **options).encode([given])
    numeric = dict(zip(embedding.codes, embedding.numeric.tolist(), strict=True))
    return dict(zip(embedding.codes, embedding.weights.tolist(), strict=True)), {code for code in numeric if numeric[code]}


def test_one_hot_holds_each_code_once_and_the_age():
    weights, numeric = encode("one_hot", RECORD)
    assert weights == {"AGE//years": 60.0, "DX//I26": 1.0, "GENDER//F": 1.0, "LAB//K": 1.0}
    assert numeric == {"AGE//years"}


def test_count_weighs_by_the_logarithm_of_occurrences():
    weights, _ = encode("count", RECORD)
    assert weights == {"AGE//years": 60.0, "DX//I26": pytest.approx(math.log2(3)), "GENDER//F": 1.0, "LAB//K": 2.0}


def test_last_values_are_numeric_codes_and_skip_events_without_a_value():
    weights, numeric = encode("one_hot", RECORD, values="last")
    assert weights["LAB//K//last"] == 5.5
    assert weights["LAB//K"] == 1.0
    assert numeric == {"AGE//years", "LAB//K//last"}
    infinite = record((3, "LAB//K", 4.0), (2, "LAB//K", math.inf))
    assert encode("one_hot", infinite, values="last")[0]["LAB//K//last"] == 4.0


def test_a_static_value_counts_until_a_dated_one_comes():
    static = record((None, "HEIGHT", 170.0))
    assert encode("one_hot", static, values="last")[0]["HEIGHT//last"] == 170.0
    dated = record((None, "HEIGHT", 170.0), (5, "HEIGHT", 171.0))
    assert encode("one_hot", dated, values="last")[0]["HEIGHT//last"] == 171.0


def test_windows_leave_static_codes_the_age_and_last_values_alone():
    weights, numeric = encode("count", RECORD, windows_days=[365, 30], values="last")
    assert weights == {
        "AGE//years": 60.0,
        "GENDER//F": 1.0,
        "DX//I26//<=30d": 1.0,
        "DX//I26//<=365d": 1.0,
        "LAB//K//<=30d": pytest.approx(math.log2(3)),
        "LAB//K//<=365d": 2.0,
        "LAB//K//last": 5.5,
    }
    assert numeric == {"AGE//years", "LAB//K//last"}


@pytest.mark.parametrize("birth", BIRTH_CODES)
def test_each_birth_code_gives_the_age_and_is_no_feature(birth):
    weights, _ = encode("one_hot", record((730.5, birth, 1.0)), values="last")
    assert weights == {"AGE//years": 2.0}


@pytest.mark.parametrize("name", ["one_hot", "count"])
def test_an_empty_record_has_no_code(name):
    assert encode(name, record()) == ({}, set())
    assert encode(name, record((0, "MEDS_DEATH", None)), values="last") == ({}, set())
    assert encode(name, record((None, "MEDS_BIRTH", None))) == ({}, set())


@pytest.mark.parametrize("windows", [[0], [-1], [30, 30], [math.inf], [math.nan]])
def test_refuses_windows_that_are_none(windows):
    with pytest.raises(ConfigError, match=r"windows_days is .*; expected different numbers of days, each > 0"):
        ENCODERS.create("one_hot", windows_days=windows)


def test_refuses_an_unknown_value_option():
    with pytest.raises(ConfigError, match="values"):
        ENCODERS.create("one_hot", values="first")


def test_travels_to_another_process():
    encoder = ENCODERS.create("count", values="last", windows_days=[30])
    (here,), (there,) = encoder.encode([RECORD]), pickle.loads(pickle.dumps(encoder)).encode([RECORD])  # noqa: S301 - our own bytes
    assert here.codes == there.codes
    np.testing.assert_array_equal(here.weights, there.weights)


def slow_reference(given, values, windows, count):
    """One event at a time, in plain Python."""
    occurrences, numbers = {}, {}
    for days, code, value in zip(given.days_before, given.code, given.numeric_value, strict=True):
        if code in BIRTH_CODES:
            if days == days:
                numbers["AGE//years"] = max(days / 365.25, numbers.get("AGE//years", 0.0))
            continue
        if code.split("//")[0] == "MEDS_DEATH":
            continue
        names = [code] if not windows or days != days else [f"{code}//<={window}d" for window in windows if days <= window]
        for name in names:
            occurrences[name] = occurrences.get(name, 0) + 1
        if values == "last" and value == value:
            numbers[f"{code}//last"] = value
    return {code: math.log2(1 + times) if count else 1.0 for code, times in occurrences.items()} | numbers, set(numbers)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(0, 50),
            st.sampled_from(["A", "B//1", "MEDS_BIRTH", "MEDS_DEATH", "MEDS_DEATH//x", "MEDS_DEATHBED"]),
            st.none() | st.floats(-5, 5, width=32),
        ),
        max_size=20,
    ),
    values=st.sampled_from(["none", "last"]),
    windows=st.lists(st.integers(1, 60), max_size=3, unique=True),
    name=st.sampled_from(["one_hot", "count"]),
)
def test_equals_a_slow_reference(rows, values, windows, name):
    rows.sort(key=lambda row: math.inf if row[0] is None else row[0], reverse=True)
    given_record = record(*rows)
    weights, numeric = encode(name, given_record, values=values, windows_days=windows)
    expected, expected_numeric = slow_reference(given_record, values, windows, name == "count")
    assert weights == pytest.approx(expected, rel=1e-6)
    assert numeric == expected_numeric
    assert list(weights) == sorted(weights)
