from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import RecordError
from concordant.data import meds as reader
from concordant.data.meds import (
    RecordCounts,
    count_events,
    data_quality,
    quality_in_words,
    quality_table,
    read_events,
    scan_shards,
    shard_paths,
)

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[4] / "shared" / "data"))
INDEX = datetime(2020, 1, 10)


def meds(rows, **casts):
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").cast(casts)


def samples(*rows):
    return pl.DataFrame(
        rows,
        schema={
            "sample_id": pl.String,
            "subject_id": pl.Int64,
            "prediction_time": pl.Datetime("us"),
        },
        orient="row",
    )


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
    assert (
        records.counts.n_events_read,
        records.counts.n_after_prediction,
        records.counts.n_null_time,
    ) == (4, 1, 1)
    assert records.counts.latest_days_before == 0.0


def test_each_sample_of_a_subject_is_cut_at_its_own_time(write):
    folder = write(meds([(1, datetime(2020, 1, day), f"D{day}", None) for day in (3, 1, 2)]))
    records = read_events(
        folder,
        samples(
            ("late", 1, datetime(2020, 1, 2)),
            ("early", 1, datetime(2020, 1, 1)),
            ("other", 9, INDEX),
        ),
    )
    assert {sample: records.events(sample).code for sample in records} == {
        "late": ("D1", "D2"),
        "early": ("D1",),
        "other": (),
    }
    assert records.counts.n_events_read == 6
    assert records.counts.n_after_prediction == 3
    assert records.counts.n_subjects_without_record == 1
    assert len(records) == 3


def test_an_event_stated_twice_is_one_and_is_counted(write):
    rows = [
        (1, None, "S", None),
        (1, None, "S", None),
        (1, INDEX, "A", 1.0),
        (1, INDEX, "A", 1.0),
        (1, INDEX, "A", 2.0),
        (1, INDEX, "A", None),
    ]
    folder = write(meds([*rows, (1, INDEX, "A", np.nan)]))
    records = read_events(folder, samples(("s", 1, INDEX)))
    assert records.events("s").code == ("S", "A", "A", "A")
    assert records.counts.n_duplicates == 3


@pytest.mark.parametrize("n", [5, 60, 5000])
def test_repeats_are_found_among_few_and_many_events_of_one_time(write, n):
    numbers = np.random.default_rng(n).integers(0, n, n).tolist()
    rows = [
        (1, INDEX, f"C{number % 7}", None if number % 3 == 0 else float(number // 7))
        for number in numbers
    ]
    records = read_events(write(meds(rows)), samples(("s", 1, INDEX)))
    assert len(records.events("s").code) == len(set(rows))
    assert records.counts.n_duplicates == n - len(set(rows))


def test_the_same_code_with_another_text_is_another_event(write):
    frame = meds([(1, INDEX, "NOTE", None)] * 4).with_columns(
        text_value=pl.Series(["a", "b", None, "b"])
    )
    folder = write(frame)
    without, with_text = (
        read_events(folder, samples(("s", 1, INDEX)), text=text).events("s")
        for text in (False, True)
    )
    assert without.code == with_text.code == ("NOTE",) * 3
    assert (without.text_value, with_text.text_value) == ((), ("a", "b", None))


def test_the_latest_event_of_all_samples_is_the_one_nearest_to_its_prediction(write):
    rows = [
        (1, None, "S", None),
        (1, datetime(2020, 1, 1), "A", None),
        (2, None, "S", None),
        (3, datetime(2020, 1, 8), "A", None),
    ]
    folder = write(meds(rows))
    asked = [
        ("static", 2, INDEX),
        ("far", 1, INDEX),
        ("near", 3, INDEX),
        ("before", 3, datetime(2020, 1, 7)),
    ]
    assert read_events(folder, samples(*asked)).counts.latest_days_before == 2.0
    assert read_events(folder, samples(*asked[:2])).counts.latest_days_before == 9.0
    assert read_events(folder, samples(asked[0], asked[3])).counts.latest_days_before is None


def test_a_subject_in_two_shards_is_refused(write):
    folder = write(meds([(1, INDEX, "A", None), (2, INDEX, "A", None)]), "data/0.parquet")
    write(meds([(2, INDEX, "B", None)]), "data/1.parquet")
    with pytest.raises(
        RecordError,
        match=r"1\.parquet: column subject_id: the subjects of 1 sample\(s\) lie in .*0\.parquet "
        r"too",
    ):
        read_events(folder, samples(("a", 1, INDEX), ("b", 2, INDEX)))
    assert read_events(folder, samples(("a", 1, INDEX))).events("a").code == ("A",)


def test_rows_out_of_order_are_sorted_and_counted(write):
    rows = [
        (2, INDEX, "D", None),
        (1, INDEX, "C", None),
        (1, datetime(2020, 1, 1), "B", None),
        (1, None, "S", None),
        (2, None, "T", None),
    ]
    records = read_events(write(meds(rows)), samples(("a", 1, INDEX), ("b", 2, INDEX)))
    assert (records.events("a").code, records.events("b").code) == (("S", "B", "C"), ("T", "D"))
    assert records.counts.n_out_of_order == 3
    assert read_events(write(meds(rows[:2])), samples(("a", 1, INDEX))).counts.n_out_of_order == 0


@pytest.mark.parametrize("code", ["MEDS_DEATH//hospital", "SNOMED/419620001"])
def test_events_after_death_are_kept_up_to_the_prediction_time_and_counted(write, code):
    death = datetime(2020, 1, 5)
    rows = [
        (1, datetime(1950, 1, 1), "MEDS_BIRTH", None),
        (1, death, code, None),
        (1, death, "SAME_DAY", None),
        (1, INDEX, "RESULT", None),
        (1, INDEX + timedelta(days=1), "BILL", None),
        (2, INDEX, "ALIVE", None),
    ]
    records = read_events(write(meds(rows)), samples(("dead", 1, INDEX), ("alive", 2, INDEX)))
    assert records.events("dead").code == ("MEDS_BIRTH", code, "SAME_DAY", "RESULT")
    counts = records.counts
    assert (counts.n_after_death, counts.n_after_prediction, counts.n_without_birth) == (2, 1, 1)


def test_the_quality_table_has_a_rule_for_every_count():
    counts = RecordCounts(10, 2, 3, 0, 1, 0, 0.5, 4, 5, 6)
    table = quality_table({"a": counts, "b": counts})
    assert table.columns == ["cohort", "finding", "n", "rule"]
    assert table.height == 2 * 9
    assert table.filter(pl.col("cohort") == "b", pl.col("finding") == "n_after_death")[
        "n"
    ].to_list() == [5]
    assert all(table["rule"])
    assert quality_in_words(counts).startswith(
        "10 events read, 2 duplicates, 3 after prediction, 1 null time, 4 out of order"
    )
    assert "look back" not in quality_in_words(counts)
    assert quality_in_words(RecordCounts(0, 0, 0, 0, 0, 0, None)) == "no event"


def test_records_beyond_the_memory_lie_in_files_until_they_are_read(write, monkeypatch):
    for shard in range(3):
        write(
            meds([(shard, INDEX, f"C{shard}", float(shard)), (shard, None, "S", None)]),
            f"data/{shard}.parquet",
        )
    folder = write(meds([(9, INDEX, "X", None)]), "data/9.parquet")
    asked = samples(("c", 2, INDEX), ("a", 0, INDEX), ("none", 7, INDEX), ("b", 1, INDEX))
    plain = read_events(folder, asked)
    monkeypatch.setattr(reader.records, "IN_MEMORY", 2)
    spilled = read_events(folder, asked)
    packed = spilled.packed(0, 4)
    assert packed.codes == ("C0", "C1", "C2", "S")
    for one, other, sample in zip(packed, plain.packed(0, 4), plain, strict=True):
        assert one.code == other.code == plain.events(sample).code == spilled.events(sample).code
        np.testing.assert_array_equal(one.days_before, other.days_before)
        np.testing.assert_array_equal(one.numeric_value, other.numeric_value)
    assert [record.code for record in packed] == [("S", "C2"), ("S", "C0"), (), ("S", "C1")]


def nested(rows, path):
    """Write a file of MEDS 0.1.

    A row per patient, a list of times, each with a list of measurements.
    """
    patients = {}
    for subject, time, code, value in rows:
        measurement = {
            "code": code,
            "text_value": None,
            "numeric_value": value,
            "datetime_value": None,
            "metadata": {"visit": 1},
        }
        patients.setdefault(subject, {}).setdefault(time, []).append(measurement)
    events = [
        [{"time": time, "measurements": found} for time, found in times.items()]
        for times in patients.values()
    ]
    measurement = pl.Struct(
        {
            "code": pl.String,
            "text_value": pl.String,
            "numeric_value": pl.Float32,
            "datetime_value": pl.Datetime("us"),
            "metadata": pl.Struct({"visit": pl.Int64}),
        }
    )
    kind = pl.List(pl.Struct({"time": pl.Datetime("us"), "measurements": pl.List(measurement)}))
    frame = pl.DataFrame({"patient_id": list(patients), "events": pl.Series(events, dtype=kind)})
    empty = pl.DataFrame(
        {
            "patient_id": [77, 78],
            "events": pl.Series([[], [{"time": INDEX, "measurements": []}]], dtype=kind),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.concat([frame, empty]).write_parquet(path)


def test_static_measurements_of_nested_files_are_events_without_a_time(write, tmp_path):
    nested([(1, datetime(2020, 1, 1), "A", 2.5)], tmp_path / "data" / "0.parquet")
    table = pl.read_parquet(tmp_path / "data" / "0.parquet")
    static = pl.Series(
        "static_measurements",
        [[{"code": "S"}], [{"code": "T"}], None],
        dtype=pl.List(pl.Struct({"code": pl.String})),
    )
    table.with_columns(static).write_parquet(tmp_path / "data" / "0.parquet")
    records = read_events(
        str(tmp_path), samples(("a", 1, INDEX), ("b", 77, INDEX), ("c", 78, INDEX))
    )
    assert [records.events(name).code for name in "abc"] == [("S", "A"), ("T",), ()]
    assert np.isnan(records.events("a").days_before[0])
    assert (records.counts.n_null_time, records.counts.n_out_of_order) == (2, 0)


def test_every_version_gives_the_same_events(write, tmp_path):
    rows = [
        (1, None, "S", None),
        (1, datetime(2020, 1, 1), "A", 2.5),
        (1, INDEX, "B", None),
        (2, INDEX, "C", 1.0),
        (2, INDEX, "D", None),
    ]
    newest = write(meds(rows), "data/0.parquet")
    meds(rows).rename({"subject_id": "patient_id"}).write_parquet(tmp_path / "0.3.parquet")
    nested(rows, tmp_path / "oldest" / "data" / "0.parquet")
    frames = [
        scan_shards(path)[0].frame.collect()
        for path in (newest, tmp_path / "0.3.parquet", tmp_path / "oldest")
    ]
    for frame in frames:
        assert frame.columns == list(reader.COLUMNS)
        assert frame.equals(frames[0])
    assert read_events(tmp_path / "oldest", samples(("s", 1, INDEX), ("t", 77, INDEX))).events(
        "s"
    ).code == ("S", "A", "B")


@pytest.mark.parametrize("version", ["0.1.4", "0.3", "0.4.1", None])
def test_known_versions_are_read(write, version):
    folder = write(meds([(1, INDEX, "A", None)]))
    (folder / "metadata").mkdir()
    (folder / "metadata" / "dataset.json").write_text(
        json.dumps({"meds_version": version} if version else {})
    )
    assert len(scan_shards(folder)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"meds_version": "1.0.0"}', "meds_version is '1.0.0'; 0.1, 0.2, 0.3, 0.4 are read"),
        ("{", "not readable as JSON"),
    ],
)
def test_an_unknown_version_is_refused(write, text, message):
    folder = write(meds([(1, INDEX, "A", None)]))
    (folder / "metadata").mkdir()
    (folder / "metadata" / "dataset.json").write_text(text)
    with pytest.raises(RecordError, match=message):
        scan_shards(folder)


def test_columns_may_be_called_otherwise(write, caplog):
    folder = write(
        meds([(1, INDEX, "A", 2.0)]).rename({"numeric_value": "value", "subject_id": "person"})
    )
    renamed = {"numeric_value": "value", "subject_id": "person"}
    assert read_events(folder, samples(("s", 1, INDEX)), columns=renamed).events(
        "s"
    ).numeric_value.tolist() == [2.0]
    assert count_events(folder, samples(("s", 1, INDEX)), columns=renamed).n_events_read == 1
    assert not caplog.messages
    scan_shards(folder, columns={"subject_id": "person"})
    assert "give columns: {numeric_value: value}" in caplog.messages[0]
    with pytest.raises(
        RecordError, match=r"missing column\(s\) number \(given for numeric_value\); found person"
    ):
        scan_shards(folder, columns={"numeric_value": "number", "subject_id": "person"})
    with pytest.raises(
        RecordError, match=r"columns gives a name for 'numeric'.*Did you mean 'numeric_value'"
    ):
        scan_shards(folder, columns={"numeric": "value"})
    with pytest.raises(RecordError, match="column value is Float32; MEDS has text there"):
        scan_shards(folder, columns={"code": "value", "subject_id": "person"})


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
        elapsed = (
            None
            if hour is None
            else (prediction - (INDEX + timedelta(hours=hour))) / timedelta(days=1)
        )
        if elapsed is not None and elapsed < 0:
            counts["after"] += 1
        elif (
            elapsed is not None
            and look_back is not None
            and elapsed > look_back
            and code != "MEDS_BIRTH"
        ):
            counts["before"] += 1
        elif (hour, code, value) in seen:
            counts["duplicates"] += 1
        else:
            seen.add((hour, code, value))
            kept.append((elapsed, code, value))
    static = [event for event in kept if event[0] is None]
    return static + sorted(
        (event for event in kept if event[0] is not None), key=lambda event: -event[0]
    ), counts


@settings(deadline=None, max_examples=60)
@given(
    events=st.lists(EVENT, max_size=25),
    predictions=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 30)), min_size=1, max_size=4),
    look_back=st.sampled_from([None, 0.25, 1.0]),
    shards=st.integers(1, 3),
)
def test_cut_equals_a_slow_reference(tmp_path_factory, events, predictions, look_back, shards):
    folder = tmp_path_factory.mktemp("meds")
    rows = [
        (owner, None if hour is None else INDEX + timedelta(hours=hour), code, value)
        for owner, hour, code, value in events
    ]
    for shard in range(shards):
        meds([row for row in rows if row[0] % shards == shard]).write_parquet(
            folder / f"{shard}.parquet"
        )
    asked = [
        (f"s{place}", subject, INDEX + timedelta(hours=hour))
        for place, (subject, hour) in enumerate(predictions)
    ]
    records = read_events(folder, samples(*asked), look_back_days=look_back)
    expected = [slow_reference(events, sample, look_back) for sample in asked]
    for sample, (kept, _) in zip(asked, expected, strict=True):
        found = records.events(sample[0])
        assert found.code == tuple(code for _, code, _ in kept)
        np.testing.assert_allclose(
            found.days_before, [np.nan if days is None else days for days, _, _ in kept], rtol=1e-12
        )
        np.testing.assert_array_equal(
            found.numeric_value, [np.nan if value is None else value for _, _, value in kept]
        )
    totals = {
        key: sum(counts[key] for _, counts in expected)
        for key in ("read", "after", "before", "duplicates")
    }
    counts = records.counts
    assert totals == {
        "read": counts.n_events_read,
        "after": counts.n_after_prediction,
        "before": counts.n_before_look_back,
        "duplicates": counts.n_duplicates,
    }
    assert (
        counts.n_events_read
        == records.n_events.sum()
        + counts.n_after_prediction
        + counts.n_before_look_back
        + counts.n_duplicates
    )
    assert counts.n_subjects_without_record == len(
        {subject for _, subject, _ in asked} - {event[0] for event in events}
    )


def test_reads_a_dataset_a_folder_or_a_file_and_leaves_metadata_aside(write, tmp_path):
    folder = write(meds([(1, INDEX, "A", None)]), "data/train/0.parquet")
    write(meds([(2, INDEX, "B", None)]), "data/held_out/0.parquet")
    write(pl.DataFrame({"code": ["A"]}), "metadata/codes.parquet")
    write(pl.DataFrame({"half": [1]}), "data/train/.0.parquet")
    asked = samples(("s", 1, INDEX))
    both = read_events(folder, samples(("s", 1, INDEX), ("t", 2, INDEX)))
    assert (both.events("s").code, both.events("t").code) == (("A",), ("B",))
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
    given = frame.with_columns(
        pl.col("time").cast(pl.Date),
        pl.col("code").cast(pl.Categorical),
        pl.col("subject_id").cast(pl.Int32),
    )
    assert read_events(write(given), samples(("s", 1, INDEX))).events("s").code == ("B", "A")
    bare = read_events(write(frame.drop("numeric_value")), samples(("s", 1, INDEX))).events("s")
    assert np.isnan(bare.numeric_value).all()
    assert (
        read_events(
            write(frame.with_columns(time=None)), samples(("s", 1, INDEX))
        ).counts.n_null_time
        == 2
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame.rename({"subject_id": "person_id"}),
            r"missing column\(s\) subject_id; found person_id, time, code",
        ),
        (lambda frame: frame.with_columns(pl.col("time").cast(pl.String)), "column time is String"),
        (
            lambda frame: frame.with_columns(
                pl.lit(datetime(2020, 1, 1, tzinfo=UTC)).alias("time")
            ),
            "timestamp without time zone",
        ),
        (
            lambda frame: frame.with_columns(pl.col("numeric_value").cast(pl.String)),
            "column numeric_value is String",
        ),
        (
            lambda frame: frame.with_columns(pl.col("subject_id").cast(pl.String)),
            "column subject_id is String",
        ),
        (lambda frame: frame.with_columns(code=1), "column code is Int32"),
        (
            lambda frame: frame.with_columns(code=pl.lit(None, pl.String)),
            r"column code is null in 1 row\(s\)",
        ),
        (
            lambda frame: frame.with_columns(subject_id=pl.lit(None, pl.Int64)),
            r"column subject_id is null in 1 row\(s\)",
        ),
        (
            lambda frame: frame.with_columns(text_value=1),
            "column text_value is Int32; MEDS has text there",
        ),
    ],
)
def test_refuses_what_is_no_meds(write, change, message):
    with pytest.raises(RecordError, match=message):
        read_events(write(change(meds([(1, INDEX, "A", 1.0)]))), samples(("s", 1, INDEX)))


def test_names_what_the_samples_lack(write):
    folder = write(meds([(1, INDEX, "A", None)]))
    with pytest.raises(
        RecordError, match="the table of samples lacks sample_id; found subject_id, prediction_time"
    ):
        read_events(folder, samples(("a", 1, INDEX)).drop("sample_id"))


def test_refuses_a_damaged_shard(tmp_path):
    (tmp_path / "0.parquet").write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(RecordError, match="not readable as a MEDS shard"):
        read_events(tmp_path, samples(("s", 1, INDEX)))


REAL = DATA / "mimic_iv_demo_meds" / "events.parquet"
VALUE = {"numeric_value": "value"}


def test_real_stream_has_the_defects_that_its_provenance_counts():
    if not REAL.is_file():
        pytest.skip(f"no {REAL}; set CONCORDANT_DATA to the folder of real data")
    counts = data_quality(REAL, columns=VALUE)
    assert (
        counts.n_events_read,
        counts.n_null_time,
        counts.n_duplicates,
        counts.n_after_death,
    ) == (916_166, 100, 82_516, 626)
    assert (
        counts.n_after_prediction,
        counts.n_subjects_without_record,
        counts.latest_days_before,
    ) == (0, 0, None)


def test_real_stream_is_cut_at_the_prediction_time():
    if not REAL.is_file():
        pytest.skip(f"no {REAL}; set CONCORDANT_DATA to the folder of real data")
    stream = pl.read_parquet(REAL)
    admitted = (
        stream.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION"))
        .group_by("subject_id")
        .agg(pl.col("time").min())
    )
    cohort = admitted.sort("subject_id").select(
        pl.col("subject_id").cast(pl.String).alias("sample_id"),
        "subject_id",
        (pl.col("time") + timedelta(days=1)).alias("prediction_time"),
    )
    records = read_events(REAL, cohort, columns=VALUE)
    counts = records.counts
    assert len(records) == 100
    assert (counts.n_events_read, counts.n_null_time, counts.n_subjects_without_record) == (
        916_166,
        100,
        0,
    )
    assert counts.latest_days_before is not None
    assert counts.latest_days_before >= 0
    joined = cohort.join(stream, on="subject_id")
    later = joined.filter(pl.col("time") > pl.col("prediction_time")).height
    kept = joined.filter(pl.col("time").is_null() | (pl.col("time") <= pl.col("prediction_time")))
    once = kept.unique(["subject_id", "time", "code", "value"])
    assert counts.n_after_prediction == later
    assert counts.n_duplicates == kept.height - once.height > 1000
    assert (
        int(np.isfinite(records.packed(0, 100).numeric_value).sum())
        == once["value"].drop_nans().drop_nulls().len()
    )
