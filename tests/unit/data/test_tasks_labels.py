"""Labels at horizons in the label form of MEDS."""

from __future__ import annotations

import polars as pl
import pytest

from concordant.core.errors import CohortError, ConfigError
from concordant.data.tasks import horizon_labels, write_labels
from meds_tasks_fixture import day


def cohort(*rows):
    table = pl.DataFrame(
        list(rows), schema={"time_days": pl.Float64, "event": pl.Int8}, orient="row"
    )
    return table.with_columns(
        subject_id=pl.int_range(pl.len(), dtype=pl.Int64), prediction_time=pl.lit(day(0))
    )


def test_whoever_is_known_at_the_horizon_has_a_label():
    table = cohort((10, 1), (30, 1), (31, 1), (10, 0), (30, 0), (31, 0), (10, 2), (31, 2))
    (labels,) = horizon_labels(table, [30])
    assert dict(labels.table.select("subject_id", "boolean_value").rows()) == {
        0: True,
        1: True,
        2: False,
        4: False,
        5: False,
        6: False,
        7: False,
    }
    assert (labels.n_true, labels.n_censored) == (2, 1)


def test_the_form_is_that_of_meds(tmp_path):
    labels = horizon_labels(cohort((10, 1), (400, 0)), [30, 365.5])
    paths = write_labels(labels, tmp_path / "labels", "mace")
    assert [path.name for path in paths] == ["mace_30d.parquet", "mace_365.5d.parquet"]
    read = pl.read_parquet(paths[0])
    assert read.schema == {
        "subject_id": pl.Int64,
        "prediction_time": pl.Datetime("us"),
        "boolean_value": pl.Boolean,
    }
    assert read["boolean_value"].to_list() == [True, False]


def test_what_labels_cannot_say_is_refused():
    with pytest.raises(
        ConfigError, match="labels are asked for at 366 days, but the task ends follow-up at 365"
    ):
        horizon_labels(cohort((10, 1)), [30, 366], followed_days=365)
    with pytest.raises(ConfigError, match="expected different days > 0"):
        horizon_labels(cohort((10, 1)), [30, 30])
    twice = pl.concat([cohort((10, 1)), cohort((10, 1))])
    with pytest.raises(CohortError, match="two samples are one subject at one time"):
        horizon_labels(twice, [30])
