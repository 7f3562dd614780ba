"""The predictions table: what is written is read, and a wrong file is named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import PredictionsError
from concordant.core.survival import (
    COLUMNS,
    SURVIVAL_TIMES_KEY,
    Outcomes,
    Predictions,
    completed,
    join_predictions,
    read_predictions,
    split_predictions,
)

GOOD = {
    "sample_id": ["a", "b", "c"],
    "time_days": [1.0, 2.5, 3.0],
    "event": [1, 0, 2],
    "risk": [0.3, -1.0, 2.0],
}


def write(folder, columns, metadata=None):
    path = folder / "predictions.parquet"
    pl.DataFrame(columns).write_parquet(path, metadata=metadata)
    return path


def test_a_foreign_file_needs_four_columns_only(tmp_path):
    predictions = read_predictions(write(tmp_path, GOOD))
    assert dict(predictions.table.schema) == {
        name: kind() if isinstance(kind, type) else kind for name, kind in COLUMNS.items()
    }
    assert predictions.table["subject_id"].n_unique() == 3
    assert predictions.risk.tolist() == GOOD["risk"]
    assert predictions.survival is None
    assert predictions.survival_times_days is None


def test_only_event_one_is_observed(tmp_path):
    target = read_predictions(write(tmp_path, GOOD)).target
    assert target.observed.tolist() == [True, False, False]
    assert len(target) == 3
    taken = target.take(np.array([2, 0]))
    assert (taken.time.tolist(), taken.event.tolist()) == ([3.0, 1.0], [2, 1])
    assert isinstance(taken, Outcomes)


rows = st.lists(
    st.tuples(
        st.floats(0.01, 1e5),
        st.integers(0, 3),
        st.floats(-1e6, 1e6),
        st.floats(0, 1),
        st.none() | st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=30)
@given(rows, st.booleans())
def test_what_is_written_is_read(tmp_path_factory, values, with_curves):
    time, event, risk, level, site = zip(*values, strict=True)
    table = pl.DataFrame(
        {
            "sample_id": [f"s{number}" for number in range(len(values))],
            "subject_id": list(range(len(values))),
            "site": list(site),
            "time_days": list(time),
            "event": list(event),
            "risk": list(risk),
            "survival": [[1.0, one] for one in level] if with_curves else [None] * len(values),
            "available": ["both"] * len(values),
            "repeat": [None] * len(values),
            "fold": [None] * len(values),
            "trial": [3] * len(values),
            "seed": [2**40] * len(values),
            "variant": ["recalibrated"] * len(values),
        },
        schema=COLUMNS,
    )
    written = Predictions(table, np.array([30.0, 365.25]) if with_curves else None)
    path = tmp_path_factory.mktemp("predictions") / "cohort.parquet"
    written.write(path)
    read = read_predictions(path)
    assert read.table.equals(table)
    if with_curves:
        assert read.survival_times_days is not None
        assert read.survival_times_days.tolist() == [30.0, 365.25]
        assert read.survival is not None
        assert read.survival.tolist() == [[1.0, one] for one in level]
    else:
        assert read.survival is None


def test_filtering_keeps_the_times(tmp_path):
    path = write(
        tmp_path, {**GOOD, "survival": [[0.9], [0.8], [0.7]]}, {SURVIVAL_TIMES_KEY: "[30]"}
    )
    filtered = read_predictions(path).filter(pl.col("event") == 1)
    assert filtered.survival is not None
    assert filtered.survival.tolist() == [[0.9]]


def test_repeats_may_hold_a_sample_once_each(tmp_path):
    twice = {name: values * 2 for name, values in GOOD.items()}
    assert (
        read_predictions(write(tmp_path, {**twice, "repeat": [0] * 3 + [1] * 3})).table.height == 6
    )
    with pytest.raises(PredictionsError, match="a sample_id occurs twice"):
        read_predictions(write(tmp_path, {**twice, "repeat": [0] * 6}))


NOT_A_NUMBER = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_id": ["a", "a", "c"]}, "a sample_id occurs twice"),
        ({"time_days": [0.0, 2.0, 3.0]}, "time_days holds"),
        ({"time_days": [-1.0, 2.0, 3.0]}, "time_days holds"),
        ({"time_days": [None, 2.0, 3.0]}, "time_days holds"),
        ({"event": [None, 0, 1]}, "event holds"),
        ({"event": [-1, 0, 1]}, "event holds"),
        ({"risk": [None, 0.0, 1.0]}, "risk holds"),
        ({"risk": [NOT_A_NUMBER, 0.0, 1.0]}, "risk holds"),
        ({"risk": [float("inf"), 0.0, 1.0]}, "risk holds"),
        ({"survival": [[0.9], [0.8, 0.7], None]}, "survival lists differ in length"),
    ],
)
def test_a_wrong_value_is_named(tmp_path, change, message):
    path = write(tmp_path, {**GOOD, **change}, {SURVIVAL_TIMES_KEY: "[30]"})
    with pytest.raises(PredictionsError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", list(GOOD))
def test_a_missing_column_is_named(tmp_path, column):
    path = write(tmp_path, {name: values for name, values in GOOD.items() if name != column})
    with pytest.raises(PredictionsError, match=f"missing column\\(s\\) {column}"):
        read_predictions(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PredictionsError, match="no such predictions file"):
        read_predictions(tmp_path / "none.parquet")


def test_event_probabilities_in_place_of_survival_are_refused(tmp_path):
    times = {SURVIVAL_TIMES_KEY: "[30, 180, 365]"}
    falling, flat, bumpy = [0.9, 0.5, 0.4], [1.0, 1.0, 1.0], [0.9, 0.4, 0.5]
    path = tmp_path / "p.parquet"
    pl.DataFrame(GOOD | {"survival": [falling, flat, bumpy]}).write_parquet(path, metadata=times)
    assert read_predictions(path).table["survival"].to_list() == [falling, flat, bumpy]
    pl.DataFrame(GOOD | {"survival": [falling, [0.1, 0.5, 0.6], None]}).write_parquet(
        path, metadata=times
    )
    with pytest.raises(
        PredictionsError,
        match=r"survival rises from its first time to its last in 1 row\(s\), the first is row 2; "
        r"expected",
    ):
        read_predictions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"time_days": [NOT_A_NUMBER, 2.0, 3.0]},
            "time_days holds a null, NaN, infinity or value <= 0 in 1 row",
        ),
        (
            {"time_days": [1.0, float("inf"), -1.0]},
            "in 2 row.s., the first is row 2; expected days > 0",
        ),
        ({"time_days": ["1", "2", "3"]}, "time_days holds String values that are no numbers"),
        ({"sample_id": [None, "b", "c"]}, "sample_id is null in 1 row"),
        ({"subject_id": [7, 7, None]}, "subject_id is null in 1 row.*or leave the column out"),
        (
            {"subject_id": ["x", "y", "z"]},
            "subject_id holds String values that are no whole numbers",
        ),
        ({"event": [0.5, 1.0, 0.0]}, "event holds Float64 values that are no whole numbers"),
        (
            {"event": [NOT_A_NUMBER, 1.0, 0.0]},
            "event holds Float64 values that are no whole numbers",
        ),
        (
            {"event": [300, 1, 0]},
            "event holds Int64 values that are no whole numbers, or do not fit Int8",
        ),
        ({"fold": [0.5, 1, 2]}, "fold holds Float64 values"),
        ({"risk": ["high", "low", "low"]}, "risk holds String values that are no numbers"),
        ({"risk": ["0.1", "0.2", "0.3"]}, "risk holds String values that are no numbers"),
        (
            {"survival": [[1.2], [0.5], [0.5]]},
            "survival holds a null, NaN or value outside .0, 1. in 1 row.s., the first is row 1",
        ),
        (
            {"survival": [[0.5], [NOT_A_NUMBER], [-0.1]]},
            "in 2 row.s., the first is row 2; expected probabilities",
        ),
        ({"survival": [[0.5], [None], [0.1]]}, "survival holds a null"),
        ({"survival": [["a"], ["b"], ["c"]]}, "survival holds List.String. values"),
        ({"survival": [0.5, 0.5, 0.5]}, "survival"),
    ],
)
def test_further_wrong_values_are_refused(tmp_path, change, message):
    path = write(tmp_path, {**GOOD, **change}, {SURVIVAL_TIMES_KEY: "[30]"})
    with pytest.raises(PredictionsError, match=message) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "change",
    [
        {"event": [True, False, True]},
        {"event": [1.0, 0.0, 1.0]},
        {"risk": [1, 2, 3]},
        {"sample_id": [10, 11, 12]},
        {"survival": [[1], [0], [1]]},
        {"repeat": [None, None, None]},
        {"repeat": [0.0, None, 1.0]},
    ],
)
def test_other_types_of_the_same_values_are_read(tmp_path, change):
    ((name, values),) = change.items()
    times = {SURVIVAL_TIMES_KEY: "[30]"}
    read = read_predictions(write(tmp_path, {**GOOD, **change}, times))
    cast = {**GOOD, name: pl.Series(values, strict=False).cast(COLUMNS[name])}
    assert read.table.equals(read_predictions(write(tmp_path, cast, times)).table)


def test_curves_without_times_are_refused(tmp_path):
    path = write(tmp_path, {**GOOD, "survival": [[0.9], None, [0.7]]})
    with pytest.raises(
        PredictionsError,
        match=r"survival is given in 2 row.s., but the file's metadata has no survival_times_days",
    ) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


def test_without_outcomes_only_what_is_predicted_is_read(tmp_path):
    path = write(
        tmp_path,
        {**GOOD, "event": ["x"] * 3, "survival": [[0.9], [0.8], [0.7]], "fold": ["y"] * 3},
        {SURVIVAL_TIMES_KEY: "[30]"},
    )
    read = read_predictions(path, outcomes=False)
    assert list(read.table.columns) == list(COLUMNS)
    assert read.table.select(pl.col("time_days", "event", "fold").null_count()).row(0) == (3, 3, 3)
    assert (read.risk.tolist(), read.survival.tolist()) == (GOOD["risk"], [[0.9], [0.8], [0.7]])
    bare = {name: GOOD[name] for name in ("sample_id", "risk")}
    assert read_predictions(write(tmp_path, bare), outcomes=False).survival is None
    with pytest.raises(
        PredictionsError,
        match=r"missing column\(s\) risk; a predictions table needs sample_id, risk",
    ):
        read_predictions(write(tmp_path, {"sample_id": ["a"]}), outcomes=False)


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(PredictionsError, match="not readable as parquet") as caught:
        read_predictions(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "times",
    [
        "[30",
        "{}",
        "30",
        '["a"]',
        "[]",
        "[30, 30]",
        "[60, 30]",
        "[-1, 30]",
        "[30, NaN]",
        "[[30]]",
        "null",
    ],
)
def test_damaged_times_are_refused(tmp_path, times):
    with pytest.raises(
        PredictionsError,
        match=r"survival_times_days in the file's metadata is .*; expected a JSON list of days",
    ):
        read_predictions(write(tmp_path, GOOD, {SURVIVAL_TIMES_KEY: times}))


def test_no_row_has_no_curve_but_the_times(tmp_path):
    path = write(
        tmp_path,
        {**GOOD, "survival": [[0.9, 0.4], [0.8, 0.3], [0.7, 0.2]]},
        {SURVIVAL_TIMES_KEY: "[30, 60]"},
    )
    none = read_predictions(path).filter(pl.col("event") == 9).survival
    assert none is not None
    assert none.shape == (0, 2)


def of_seed(seed, variant, *, times=(30.0, 365.25), samples=3):
    made = pl.DataFrame(
        {
            "sample_id": [f"s{number}" for number in range(samples)],
            "subject_id": range(samples),
            "time_days": [10.0] * samples,
            "event": [1] * samples,
            "risk": [float(seed)] * samples,
            "survival": [[1.0, 1 / (seed + 1)]] * samples,
            "seed": [seed] * samples,
            "variant": [variant] * samples,
        }
    )
    return Predictions(completed(made), np.array(times))


def test_seeds_and_variants_of_a_cohort_stand_in_one_file(tmp_path):
    parts = [of_seed(seed, variant) for variant in ("as_is", "recalibrated") for seed in (7, 3)]
    join_predictions(parts).write(tmp_path / "cohort.parquet")
    read = read_predictions(tmp_path / "cohort.parquet")
    found = split_predictions(read)
    assert list(found) == [("as_is", 7), ("as_is", 3), ("recalibrated", 7), ("recalibrated", 3)]
    for part, own in zip(parts, found.values(), strict=True):
        assert own.table.equals(part.table)
        assert own.survival_times_days.tolist() == [30.0, 365.25]
    assert read.of_variant("recalibrated").table.height == 6


def test_rows_without_a_variant_are_as_predicted():
    given = of_seed(0, None)
    assert given.of_variant("as_is").table.equals(given.table)
    assert given.of_variant("recalibrated").table.is_empty()
    assert list(split_predictions(given)) == [("as_is", 0)]


def test_only_what_has_one_set_of_times_is_joined():
    with pytest.raises(PredictionsError, match="different times"):
        join_predictions([of_seed(0, "as_is"), of_seed(1, "as_is", times=(30.0, 180.0))])
    with pytest.raises(PredictionsError, match="no predictions to join"):
        join_predictions([])


def test_a_sample_stands_once_per_seed_and_variant(tmp_path):
    twice = Predictions(pl.concat([of_seed(0, "as_is").table] * 2), np.array([30.0, 365.25]))
    twice.write(tmp_path / "cohort.parquet")
    with pytest.raises(PredictionsError, match="a sample_id occurs twice"):
        read_predictions(tmp_path / "cohort.parquet")


def test_outcomes_are_read_by_the_cause():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 2])
    plain, of_two = Outcomes(time, event), Outcomes(time, event, cause=2)
    assert plain.observed.tolist() == [False, True, False]
    assert plain.censored.tolist() == [True, False, True]
    assert not plain.competing.any()
    assert of_two.observed.tolist() == [False, False, True]
    assert of_two.competing.tolist() == [False, True, False]
    assert (plain.weights == 1).all()
    part = Outcomes(time, event, np.array([1.0, 2.0, 3.0]), np.array([5, 5, 6]), 2).take(
        np.array([2, 0])
    )
    assert (part.weights.tolist(), part.cluster.tolist(), part.n_events) == ([3.0, 1.0], [6, 5], 1)
