from __future__ import annotations

import math
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.embedding import pack_codes
from concordant.core.errors import ConfigError, RecordError
from concordant.core.events import BIRTH_CODES, Events, LifeCodes, pack_events
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
    return dict(zip(embedding.codes, embedding.weights.tolist(), strict=True)), {
        code for code in numeric if numeric[code]
    }


def test_one_hot_holds_each_code_once_and_the_age():
    weights, numeric = encode("one_hot", RECORD)
    assert weights == {"AGE//years": 60.0, "DX//I26": 1.0, "GENDER//F": 1.0, "LAB//K": 1.0}
    assert numeric == {"AGE//years"}


def test_count_weighs_by_the_logarithm_of_occurrences():
    weights, _ = encode("count", RECORD)
    assert weights == {
        "AGE//years": 60.0,
        "DX//I26": pytest.approx(math.log2(3)),
        "GENDER//F": 1.0,
        "LAB//K": 2.0,
    }


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


def test_values_are_summarised_several_ways_at_once():
    given = record(
        (None, "LAB", 1.0),
        (10, "LAB", 2.0),
        (6, "LAB", 3.0),
        (2, "LAB", 7.0),
        (2, "LAB", None),
        (1, "ONCE", 4.0),
    )
    weights, numeric = encode("one_hot", given, values=["last", "mean", "min", "max", "slope"])
    assert {code: weights[code] for code in weights if code.startswith("LAB//")} == {
        "LAB//last": 7.0,
        "LAB//max": 7.0,
        "LAB//mean": 3.25,
        "LAB//min": 1.0,
        "LAB//slope": pytest.approx(np.polyfit([-10, -6, -2], [2, 3, 7], 1)[0]),
    }
    assert "ONCE//slope" not in weights
    assert numeric == {code for code in weights if "//" in code}


def test_a_slope_survives_large_times_and_values():
    days = np.array([20_000.5, 20_000.25, 20_000.0])
    rows = [(day, "LAB", 1e6 + step) for step, day in enumerate(days)]
    assert encode("one_hot", record(*rows), values="slope")[0]["LAB//slope"] == pytest.approx(4.0)
    assert (
        "LAB//slope"
        not in encode("one_hot", record((3, "LAB", 1.0), (3, "LAB", 2.0)), values="slope")[0]
    )


def test_values_that_cannot_be_stored_are_none():
    weights, _ = encode(
        "one_hot", record((3, "LAB", 4.0), (2, "LAB", 1e39)), values=["max", "mean"]
    )
    assert (weights["LAB//max"], weights["LAB//mean"]) == (4.0, 4.0)


def test_bins_are_codes_with_fixed_ends():
    given = record(
        (None, "K", -0.3),
        (400, "K", 2.0),
        (20, "K", 4.999),
        (10, "K", 5.0),
        (5, "K", None),
        (4, "K", math.inf),
        (3, "Z", 0.0),
    )
    weights, numeric = encode("count", given, values="bins")
    assert weights.keys() == {"K", "Z", "K//[-0.5,-0.2)", "K//[2,5)", "K//[5,10)", "Z//[0,1e-06)"}
    assert weights["K//[2,5)"] == pytest.approx(math.log2(3))
    assert numeric == set()
    weights, _ = encode(
        "one_hot", given, values=["bins", "last"], windows_days=[30], cut_points={"K": [3.5, 5.0]}
    )
    assert weights.keys() == {
        "K",
        "K//(-inf,3.5)",
        "K//<=30d",
        "K//[3.5,5)//<=30d",
        "K//[5,inf)//<=30d",
        "K//last",
        "Z//<=30d",
        "Z//[0,1e-06)//<=30d",
        "Z//last",
    }


@pytest.fixture
def ontology(tmp_path):
    rows = {
        "I21.4": ["I21"],
        "I21": ["I20-I25", "CIRCLE"],
        "I20-I25": ["I"],
        "CIRCLE": ["I21"],
        "LEAF": None,
        "MEDS_DEATH": ["END"],
    }
    path = tmp_path / "codes.parquet"
    pl.DataFrame({"code": list(rows), "parent_codes": list(rows.values())}).write_parquet(path)
    return path


def test_a_code_counts_for_those_above_it(ontology):
    given = record(
        (9, "I21.4", 3.0),
        (8, "I21", None),
        (7, "LEAF", None),
        (6, "OTHER", None),
        (0, "MEDS_DEATH", None),
    )
    weights, _ = encode("count", given, ontology=ontology, values="last")
    two, three = math.log2(3), 2.0
    assert weights.pop("I21.4//last") == 3.0
    assert weights.keys() == {"I21.4", "I21", "I20-I25", "I", "CIRCLE", "LEAF", "OTHER"}
    assert [weights[code] for code in ("I21.4", "I21", "I20-I25", "I", "CIRCLE")] == pytest.approx(
        [1, two, two, two, two]
    )
    assert three == encode("count", record(*[(1, "I21.4", None)] * 3), ontology=ontology)[0]["I"]
    assert encode("one_hot", given, ontology=ontology, ontology_depth=1)[0].keys() == {
        "I21.4",
        "I21",
        "I20-I25",
        "CIRCLE",
        "LEAF",
        "OTHER",
    }


def test_an_ontology_that_is_none_is_refused(tmp_path):
    with pytest.raises(RecordError, match="ontology expects metadata"):
        ENCODERS.create("one_hot", ontology=tmp_path / "absent.parquet")
    path = tmp_path / "codes.parquet"
    pl.DataFrame({"code": ["A"], "parent": ["B"]}).write_parquet(path)
    with pytest.raises(
        RecordError,
        match=r"expected code \(text\) and parent_codes \(list of text\).*found code String, "
        r"parent String",
    ):
        ENCODERS.create("one_hot", ontology=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": ["last", "last"]}, "expected different ones"),
        ({"values": ["none", "last"]}, "or none alone"),
        ({"ontology_depth": 2}, "without an ontology"),
        ({"ontology_depth": 0}, "greater than or equal to 1"),
        ({"cut_points": {"K": [1.0]}}, "values does not name bins"),
        ({"values": "bins", "cut_points": {"K": [2.0, 1.0]}}, "ascending order"),
        ({"values": "bins", "cut_points": {"K": []}}, "ascending order"),
        ({"values": "median"}, "values"),
    ],
)
def test_refuses_options_that_do_not_go_together(options, message):
    with pytest.raises(ConfigError, match=message):
        ENCODERS.create("one_hot", **options)


def test_a_code_with_the_name_of_a_feature_is_refused():
    with pytest.raises(RecordError, match=r"1 feature.*'K//last'.*rename"):
        encode("one_hot", record((1, "K", 2.0), (1, "K//last", None)), values="last")


@pytest.mark.parametrize("windows", [[0], [-1], [30, 30], [math.inf], [math.nan]])
def test_refuses_windows_that_are_none(windows):
    with pytest.raises(
        ConfigError, match=r"windows_days is .*; expected different numbers of days, each > 0"
    ):
        ENCODERS.create("one_hot", windows_days=windows)


def test_refuses_an_unknown_value_option():
    with pytest.raises(ConfigError, match="values"):
        ENCODERS.create("one_hot", values="first")


def test_travels_to_another_process():
    encoder = ENCODERS.create("count", values="last", windows_days=[30])
    (here,), (there,) = (
        encoder.encode([RECORD]),
        pickle.loads(pickle.dumps(encoder)).encode([RECORD]),  # noqa: S301 # its own bytes
    )
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
        names = (
            [code]
            if not windows or days != days
            else [f"{code}//<={window}d" for window in windows if days <= window]
        )
        for name in names:
            occurrences[name] = occurrences.get(name, 0) + 1
        if values == "last" and value == value:
            numbers[f"{code}//last"] = value
    return {
        code: math.log2(1 + times) if count else 1.0 for code, times in occurrences.items()
    } | numbers, set(numbers)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(
            st.none() | st.integers(0, 50),
            st.sampled_from(
                ["A", "B//1", "MEDS_BIRTH", "MEDS_DEATH", "MEDS_DEATH//x", "MEDS_DEATHBED"]
            ),
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


MANY = st.lists(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 50),
            st.sampled_from(["A", "B", "C//1", "MEDS_BIRTH", "MEDS_DEATH"]),
            st.none() | st.floats(-5, 5),
        ),
        max_size=12,
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(
    many=MANY,
    values=st.lists(
        st.sampled_from(["last", "mean", "min", "max", "slope", "bins"]), unique=True, max_size=6
    ),
    windows=st.lists(st.integers(1, 60), max_size=2, unique=True),
    name=st.sampled_from(["one_hot", "count"]),
)
def test_the_packed_table_equals_the_records_one_by_one(many, values, windows, name):
    for rows in many:
        rows.sort(key=lambda row: math.inf if row[0] is None else row[0], reverse=True)
    records = [record(*rows) for rows in many]
    encoder = ENCODERS.create(name, values=values or "none", windows_days=windows)
    table = encoder.encode(records)
    expected = pack_codes([encoder.encode([one])[0] for one in records])
    assert table.codes == expected.codes
    for field in ("numeric", "index", "weight", "offsets"):
        np.testing.assert_array_equal(getattr(table, field), getattr(expected, field))
    for rows, one in zip(many, encoder.encode(records), strict=True):
        assert dict(zip(one.codes, one.weights.tolist(), strict=True)) | statistics_of(
            rows, values
        ) == pytest.approx(
            dict(zip(one.codes, one.weights.tolist(), strict=True)), rel=1e-4, abs=1e-4
        )


def statistics_of(rows, values):
    """The numeric codes of a record in plain numpy, without those that rounding decides."""
    expected = {}
    for code in {
        code for _, code, value in rows if value is not None and not code.startswith("MEDS")
    }:
        numbers = [(day, value) for day, one, value in rows if one == code and value is not None]
        found = [value for _, value in numbers]
        summaries = {
            "last": found[-1],
            "mean": np.mean(found),
            "min": min(found),
            "max": max(found),
        }
        dated = [(-day, value) for day, value in numbers if day is not None]
        if len({day for day, _ in dated}) > 1:
            summaries["slope"] = np.polyfit(*zip(*dated, strict=True), 1)[0]
        expected |= {
            f"{code}//{name}": value for name, value in summaries.items() if name in values
        }
    return expected


def test_packed_records_are_the_records():
    given = [
        RECORD,
        record(),
        Events(np.array([1.0, 0.0]), ("N", "N"), np.array([NONE, 1.0]), ("a", None)),
    ]
    packed = pack_events(given)
    assert pack_events(packed) is packed
    assert len(packed) == 3
    assert packed[-1].text_value == ("a", None)
    assert packed[0:1][0].code == RECORD.code
    for one, other in zip(packed, given, strict=True):
        assert one.code == other.code
        np.testing.assert_array_equal(one.days_before, other.days_before)
        np.testing.assert_array_equal(one.numeric_value, other.numeric_value)
    present = packed.holding(np.array([True, False, True]))
    assert [record.code for record in present] == [RECORD.code, ("N", "N")]
    with pytest.raises(IndexError):
        packed[3]


def test_births_and_deaths_are_found_among_sorted_codes():
    codes = sorted(
        [
            *BIRTH_CODES,
            "A",
            "MEDS_DEATH",
            "MEDS_DEATH//x",
            "MEDS_DEATHBED",
            "MEDS_DEATH_",
            "Z",
            "SNOMED/395",
        ]
    )
    for chosen in (codes, codes[::2], codes[1::2], codes[:1], []):
        life = LifeCodes.among(chosen)
        assert life.birth.tolist() == [code in BIRTH_CODES for code in chosen]
        assert life.death.tolist() == [
            code == "MEDS_DEATH" or code.startswith("MEDS_DEATH//") for code in chosen
        ]
