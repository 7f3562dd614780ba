from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import RecordError
from concordant.data.meds import read_events, shard_paths

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[3] / "shared" / "data"))
INDEX = datetime(2020, 1, 10)


def meds(rows, **casts):
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row").cast(casts)


def samples(*rows):
    return pl.DataFrame(rows, schema={"sample_id": pl.String, "subject_id": pl.Int64, "prediction_time": pl.Datetime("us")}, orient="row")


@pytest.fixture
def write(tmp_path):
    def write(frame, name="data/train/0.parquet"):
        path = tmp_path / "meds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        return tmp_path / "meds"

    return write


def test_an_event_at_the_prediction_time_is_history_and_a_later_one_is_cut(write):
    folder = write(
        meds(
            [
                (1, None, "GENDER//F", None),
                (1, datetime(2020, 1, 1), "A", 2.5),
                (1, INDEX, "B", None),
                (1, INDEX + timedelta(microseconds=1), "C", 1.0),
                (2, datetime(2019, 1, 1), "D", None),
            ]
        )
    )
    records = read_events(folder, samples(("s", 1, INDEX)))
    events = records.events("s")
    assert events.code == ("GENDER//F", "A", "B")
    np.testing.assert_array_equal(events.days_before, [np.nan, 9.0, 0.0])
    np.testing.assert_array_equal(events.numeric_value, [np.nan, 2.5, np.nan])
    assert (records.counts.n_events_read, records.counts.n_after_prediction, records.counts.n_null_time) == (4, 1, 1)
    assert records.counts.latest_days_before == 0.0


def test_each_sample_of_a_subject_is_cut_at_its_own_time(write):
    folder = write(meds([(1, datetime(2020, 1, day), f"D{day}", None) for day in (3, 1, 2)]))
    records = read_events(folder, samples(("late", 1, datetime(2020, 1, 2)), ("early", 1, datetime(2020, 1, 1)), ("other", 9, INDEX)))
    assert {sample: records.events(sample).code for sample in records} == {"late": ("D1", "D2"), "early": ("D1",), "other": ()}
    assert records.counts.n_events_read == 6
    assert records.counts.n_after_prediction == 3
    assert records.counts.n_subjects_without_record == 1
    assert len(records) == 3


def test_an_event_stated_twice_is_one_and_is_counted(write):
    write(meds([(1, INDEX, "A", 1.0), (1, INDEX, "A", 1.0), (1, INDEX, "A", 2.0), (1, INDEX, "A", None), (1, None, "S", None)]))
    folder = write(meds([(1, None, "S", None), (1, INDEX, "A", np.nan)]), "data/train/1.parquet")
    records = read_events(folder, samples(("s", 1, INDEX)))
    assert records.events("s").code == ("S", "A", "A", "A")
    assert records.counts.n_duplicates == 3


def test_the_look_back_spares_static_events_and_the_birth(write):
    folder = write(
        meds(
            [
                (1, None, "S", None),
                (1, datetime(1950, 1, 1), "MEDS_BIRTH", None),
                (1, datetime(2019, 12, 1), "OLD", None),
                (1, datetime(2019, 12, 31), "EDGE", None),
                (1, datetime(2020, 1, 9), "NEW", None),
            ]
        )
    )
    records = read_events(folder, samples(("s", 1, INDEX)), look_back_days=10)
    assert records.events("s").code == ("S", "MEDS_BIRTH", "EDGE", "NEW")
    assert records.counts.n_before_look_back == 1
    with pytest.raises(RecordError, match="look_back_days is 0"):
        read_events(folder, samples(("s", 1, INDEX)), look_back_days=0)


EVENT = st.tuples(
    st.integers(1, 3),
    st.none() | st.integers(0, 30),
    st.sampled_from(["A", "B", "MEDS_BIRTH"]),
    st.sampled_from([None, 0.5, 1.0]),
)


def slow_reference(events, sample, look_back):
    """One event at a time, in plain Python."""
    _, subject, prediction = sample
    seen, kept, counts = set(), [], {"read": 0, "after": 0, "before": 0, "duplicates": 0}
    for owner, hour, code, value in events:
        if owner != subject:
            continue
        counts["read"] += 1
        elapsed = None if hour is None else (prediction - (INDEX + timedelta(hours=hour))) / timedelta(days=1)
        if elapsed is not None and elapsed < 0:
            counts["after"] += 1
        elif elapsed is not None and look_back is not None and elapsed > look_back and code != "MEDS_BIRTH":
            counts["before"] += 1
        elif (hour, code, value) in seen:
            counts["duplicates"] += 1
        else:
            seen.add((hour, code, value))
            kept.append((elapsed, code, value))
    static = [event for event in kept if event[0] is None]
    return static + sorted((event for event in kept if event[0] is not None), key=lambda event: -event[0]), counts


@settings(deadline=None, max_examples=60)
@given(
    events=st.lists(EVENT, max_size=25),
    predictions=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), min_size=1, max_size=4),
    look_back=st.sampled_from([None, 0.25, 1.0]),
    shards=st.integers(1, 3),
)
def test_cut_equals_a_slow_reference(tmp_path_factory, events, predictions, look_back, shards):
    folder = tmp_path_factory.mktemp("meds")
    rows = [(owner, None if hour is None else INDEX + timedelta(hours=hour), code, value) for owner, hour, code, value in events]
    for shard in range(shards):
        meds(rows[shard * 10 : (shard + 1) * 10 if shard < shards - 1 else None]).write_parquet(folder / f"{shard}.parquet")
    asked = [(f"s{place}", subject, INDEX + timedelta(hours=hour)) for place, (subject, hour) in enumerate(predictions)]
    records = read_events(folder, samples(*asked), look_back_days=look_back)
    expected = [slow_reference(events, sample, look_back) for sample in asked]
    for sample, (kept, _) in zip(asked, expected, strict=True):
        found = records.events(sample[0])
        assert found.code == tuple(code for _, code, _ in kept)
        np.testing.assert_allclose(found.days_before, [np.nan if days is None else days for days, _, _ in kept], rtol=1e-12)
        np.testing.assert_array_equal(found.numeric_value, [np.nan if value is None else value for _, _, value in kept])
    totals = {key: sum(counts[key] for _, counts in expected) for key in ("read", "after", "before", "duplicates")}
    counts = records.counts
    assert totals == {
        "read": counts.n_events_read,
        "after": counts.n_after_prediction,
        "before": counts.n_before_look_back,
        "duplicates": counts.n_duplicates,
    }
    assert counts.n_events_read == records.offsets[-1] + counts.n_after_prediction + counts.n_before_look_back + counts.n_duplicates
    assert counts.n_subjects_without_record == len({subject for _, subject, _ in asked} - {event[0] for event in events})


def test_reads_a_dataset_a_folder_or_a_file_and_leaves_metadata_aside(write, tmp_path):
    folder = write(meds([(1, INDEX, "A", None)]), "data/train/0.parquet")
    write(meds([(1, INDEX, "B", None)]), "data/held_out/0.parquet")
    write(pl.DataFrame({"code": ["A"]}), "metadata/codes.parquet")
    write(pl.DataFrame({"half": [1]}), "data/train/.0.parquet")
    asked = samples(("s", 1, INDEX))
    assert set(read_events(folder, asked).events("s").code) == {"A", "B"}
    assert read_events(folder / "data" / "train", asked).events("s").code == ("A",)
    assert read_events(folder / "data" / "train" / "0.parquet", asked).events("s").code == ("A",)
    flat = tmp_path / "flat"
    (flat / "metadata").mkdir(parents=True)
    meds([(1, INDEX, "A", None)]).write_parquet(flat / "0.parquet")
    pl.DataFrame({"code": ["A"]}).write_parquet(flat / "metadata" / "codes.parquet")
    assert shard_paths(flat) == [flat / "0.parquet"]
    with pytest.raises(RecordError, match="no parquet file found"):
        shard_paths(tmp_path / "absent")


def test_accepts_dates_categories_wide_numbers_and_no_values(write):
    frame = meds([(1, INDEX, "A", 1.5), (1, datetime(2020, 1, 9), "B", None)])
    given = frame.with_columns(pl.col("time").cast(pl.Date), pl.col("code").cast(pl.Categorical), pl.col("subject_id").cast(pl.Int32))
    assert read_events(write(given), samples(("s", 1, INDEX))).events("s").code == ("B", "A")
    bare = read_events(write(frame.drop("numeric_value")), samples(("s", 1, INDEX))).events("s")
    assert np.isnan(bare.numeric_value).all()
    assert read_events(write(frame.with_columns(time=None)), samples(("s", 1, INDEX))).counts.n_null_time == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.rename({"subject_id": "patient_id"}), r"missing column\(s\) subject_id; found patient_id, time, code"),
        (lambda frame: frame.with_columns(pl.col("time").cast(pl.String)), "column time is String"),
        (lambda frame: frame.with_columns(pl.lit(datetime(2020, 1, 1, tzinfo=UTC)).alias("time")), "timestamp without time zone"),
        (lambda frame: frame.with_columns(pl.col("numeric_value").cast(pl.String)), "column numeric_value is String"),
        (lambda frame: frame.with_columns(pl.col("subject_id").cast(pl.String)), "column subject_id is String"),
        (lambda frame: frame.with_columns(code=1), "column code is Int32"),
        (lambda frame: frame.with_columns(code=pl.lit(None, pl.String)), r"1 event\(s\) have no code"),
    ],
)
def test_refuses_what_is_no_meds(write, change, message):
    with pytest.raises(RecordError, match=message):
        read_events(write(change(meds([(1, INDEX, "A", 1.0)]))), samples(("s", 1, INDEX)))


def test_refuses_a_damaged_shard(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(RecordError, match="not readable as a MEDS shard"):
        read_events(tmp_path, samples(("s", 1, INDEX)))


def test_real_stream_with_duplicates_null_times_and_late_events(tmp_path):
    source = DATA / "mimic_iv_demo_meds" / "events.parquet"
    if not source.is_file():
        pytest.skip(f"no {source}; set CONCORDANT_DATA to the folder of real data")
    stream = pl.read_parquet(source).rename({"value": "numeric_value"})
    stream.write_parquet(tmp_path / "0.parquet")
    admitted = stream.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION")).group_by("subject_id").agg(pl.col("time").min())
    cohort = admitted.sort("subject_id").select(
        pl.col("subject_id").cast(pl.String).alias("sample_id"), "subject_id", (pl.col("time") + timedelta(days=1)).alias("prediction_time")
    )
    records = read_events(tmp_path, cohort)
    counts = records.counts
    assert len(records) == 100
    assert (counts.n_events_read, counts.n_null_time, counts.n_subjects_without_record) == (916_166, 100, 0)
    assert counts.n_duplicates > 1000
    assert counts.latest_days_before is not None
    assert counts.latest_days_before >= 0
    later = cohort.join(stream, on="subject_id").filter(pl.col("time") > pl.col("prediction_time")).height
    assert counts.n_after_prediction == later
