"""Survival by thirds of risk, against Kaplan-Meier curves of thirds that the test forms itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from concordant.analysis.candidates import Candidate, merged
from concordant.analysis.survival_curves import GROUPS, SURVIVAL_CURVES_SCHEMA, survival_curves
from concordant.core.survival import Predictions
from concordant.metrics import kaplan_meier, log_rank, restricted_mean_difference

N = 90


def predictions(seed: int = 0, *, folds: int = 0, repeats: int = 1) -> Predictions:
    rng = np.random.default_rng(5)
    noise = np.random.default_rng(seed)
    time = rng.exponential(400, N).round() + 1
    event = (rng.uniform(size=N) < 0.6).astype(np.int8)
    tables = [
        pl.DataFrame(
            {
                "sample_id": [f"s{number}" for number in range(N)],
                "subject_id": np.arange(N),
                "site": "a",
                "time_days": time,
                "event": event,
                "risk": -np.log(time) + noise.normal(size=N),
                "survival": pl.Series([None] * N, dtype=pl.List(pl.Float64)),
                "available": "both",
                "repeat": pl.Series([repeat if folds else None] * N, dtype=pl.Int16),
                "fold": pl.Series(
                    (np.arange(N) + repeat) % folds if folds else [None] * N, dtype=pl.Int16
                ),
            }
        )
        for repeat in range(repeats)
    ]
    return Predictions(pl.concat(tables), None)


def candidate(fusion: str = "concat", seed: int = 0, **cohorts: Predictions) -> Candidate:
    return Candidate(fusion, "ct", "ehr", None, seed, cohorts, {None: 0.7})


def check(table: pl.DataFrame, given: Predictions, risk: np.ndarray) -> None:
    """Compare with curves of thirds formed by sorting."""
    target, third = given.target.take(np.arange(N)), np.argsort(np.argsort(risk)) * 3 // N
    for number, group in enumerate(GROUPS):
        own = target.take(np.flatnonzero(third == number))
        rows, curve = table.filter(pl.col("group") == group), kaplan_meier(own.time, own.event)
        assert rows["n"].unique().to_list() == [len(own)]
        assert rows["n_events"].unique().to_list() == [own.observed.sum()]
        days = rows["time_days"].to_numpy()
        assert days[0] == 0
        assert (np.diff(days) > 0).all()
        np.testing.assert_allclose(rows["survival"], curve.at(days))
        assert (rows["ci_low"] <= rows["survival"]).all()
        assert (rows["survival"] <= rows["ci_high"]).all()
        assert rows["n_at_risk"].to_list() == [(own.time >= day).sum() for day in days]
        missed = set(own.time[own.time < days[-1]]) - set(days)
        assert not missed
    assert table["log_rank_p"][0] == pytest.approx(
        log_rank(target.time, target.event, third).p_value
    )
    high, low = (np.flatnonzero(third == number) for number in (2, 0))
    both = target.take(np.concatenate([low, high]))
    lost = restricted_mean_difference(
        both.time, both.event, np.repeat([0, 1], [len(low), len(high)]), tau=table["tau_days"][0]
    )
    assert table["days_lost"][0] == pytest.approx(abs(lost.difference))
    assert table["days_lost_ci_low"][0] < table["days_lost"][0] < table["days_lost_ci_high"][0]


def test_curves_are_those_of_the_thirds_and_end_where_a_tenth_is_followed():
    given = predictions()
    table = survival_curves([candidate(here=given)])
    assert dict(table.schema) == SURVIVAL_CURVES_SCHEMA
    check(table, given, given.risk)
    assert table["time_days"].max() == pytest.approx(np.quantile(given.target.time, 0.9))
    assert table["note"].null_count() == table.height


def test_risks_are_averaged_over_seeds():
    one, two = predictions(1), predictions(2)
    table = survival_curves(merged([candidate(here=one), candidate(seed=1, here=two)]))
    check(table, one, (one.risk + two.risk) / 2)


def test_folds_are_ranked_inside_and_repeats_averaged():
    given = predictions(folds=3, repeats=2)
    shifted = given.table.with_columns(pl.col("risk") + 100 * pl.col("fold"))
    expected = np.zeros(N)
    for repeat in (0, 1):
        for fold in range(3):
            own = given.table.filter(pl.col("repeat") == repeat, pl.col("fold") == fold)
            rows = own["sample_id"].str.slice(1).cast(pl.Int64).to_numpy()
            expected[rows] += (np.argsort(np.argsort(own["risk"])) + 1) / own.height / 2
    table = survival_curves([candidate(here=Predictions(shifted, None))])
    third = np.searchsorted(np.quantile(expected, [1 / 3, 2 / 3]), expected, side="left")
    for number, group in enumerate(GROUPS):
        own = given.target.take(np.flatnonzero(third == number))
        rows = table.filter(pl.col("group") == group)
        assert (rows["n"][0], rows["n_events"][0]) == (len(own), own.observed.sum())
        curve = kaplan_meier(own.time, own.event)
        np.testing.assert_allclose(rows["survival"], curve.at(rows["time_days"].to_numpy()))


def test_models_and_cohorts_have_their_own_curves_and_models_of_others_none():
    score = replace(candidate("score", here=predictions()), ct_encoder=None, ehr_encoder=None)
    table = survival_curves(
        [
            candidate(here=predictions(), there=predictions(3)),
            candidate("late", here=predictions()),
            score,
        ]
    )
    assert set(table.select("fusion", "cohort").unique().rows()) == {
        ("concat", "here"),
        ("concat", "there"),
        ("late", "here"),
    }


def test_equal_risks_give_a_row_with_the_reason():
    equal = predictions().table.with_columns(risk=pl.lit(1.0))
    table = survival_curves([candidate(here=Predictions(equal, None))])
    assert table.height == 1
    assert table["survival"][0] is None
    assert table["cohort"][0] == "here"
    assert table["note"][0]


def test_without_a_model_the_table_is_empty_and_has_its_columns():
    assert dict(survival_curves([]).schema) == SURVIVAL_CURVES_SCHEMA
