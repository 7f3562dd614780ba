"""Competing events: what a cause means for every metric of a predictions table, and that it
means nothing where nothing competes.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import ConfigError
from concordant.core.survival import Outcomes, Predictions, completed
from concordant.evaluation import METRICS, averaged, evaluate, subgroups
from concordant.metrics import (
    auc_at,
    brier_score_at,
    calibration_in_the_large,
    compare_concordance_ipcw,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
)

TIMES = np.array([60.0, 120.0, 240.0, 400.0])
HORIZON = 240.0
PLAIN = [name for name in METRICS if not METRICS.get(name).at_horizons]
HAZARD_ONLY = {"integrated_calibration_index", "calibration_slope"}


def predictions(seed=0, n=150, *, codes=(1, 2), folds=None, weights=False):
    """Two samples per subject; the first code is the commoner event."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    ends = np.stack(
        [
            rng.exponential(500, n),
            *(
                rng.exponential(400 * np.exp(-signal * (k == 0)) * (1 + k))
                for k in range(len(codes))
            ),
        ]
    )
    risk = signal + rng.normal(size=n)
    made = pl.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(n)],
            "subject_id": np.arange(n) // 2,
            "site": np.where(np.arange(n) % 3 == 0, "north", "south"),
            "time_days": np.ceil(ends.min(0) / 5) * 5,
            "event": np.array([0, *codes])[ends.argmin(0)],
            "risk": np.round(risk, 1),
            "survival": np.exp(-np.outer(np.exp(risk / 2), TIMES / 500)).tolist(),
            "available": ["both"] * n,
            "repeat": [0 if folds else None] * n,
            "fold": rng.permutation(np.arange(n) % folds) if folds else [None] * n,
        }
    )
    table = completed(made)
    if weights:
        table = table.with_columns(weight=pl.Series(rng.integers(0, 3, n)))
    return Predictions(table, TIMES)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    folds=st.sampled_from([None, 2]),
    weights=st.booleans(),
    censoring=st.sampled_from(["cohort", "train", "pooled"]),
    tau=st.sampled_from([None, 200.0]),
)
def test_where_nothing_competes_cause_1_changes_no_bit_of_any_metric(
    seed, folds, weights, censoring, tau
):
    made, train = (
        predictions(seed, codes=(1,), folds=folds, weights=weights),
        predictions(seed + 1, codes=(1,)).target,
    )
    options = {
        "metrics": list(METRICS),
        "horizons_days": (HORIZON,),
        "censoring": censoring,
        "train": train,
        "tau": tau,
    }
    assert evaluate(made, cause=1, **options).equals(evaluate(made, **options))


def library(made, cause):
    """Every metric that has a form for competing events, by the library's functions on arrays."""
    time, event = made.target.time, made.target.event
    rows = {"cluster": made.table["subject_id"].to_numpy(), "cause": cause}
    at = made.survival[:, list(TIMES).index(HORIZON)]
    return {
        "concordance_index": concordance_index(time, event, made.risk, **rows),
        "concordance_index_ipcw": concordance_index_ipcw(time, event, made.risk, **rows),
        "integrated_brier_score": integrated_brier_score(time, event, made.survival, TIMES, **rows),
        "brier_score": brier_score_at(time, event, at, HORIZON, **rows),
        "cumulative_dynamic_auc": auc_at(time, event, made.risk, HORIZON, **rows),
        "calibration_in_the_large": calibration_in_the_large(time, event, 1 - at, HORIZON, **rows),
    }


@pytest.mark.parametrize("cause", [1, 2])
def test_every_metric_is_that_of_the_cause(cause):
    made = predictions()
    found = {
        row["metric"]: row
        for row in evaluate(
            made, metrics=list(METRICS), horizons_days=(HORIZON,), cause=cause
        ).to_dicts()
    }
    expected = library(made, cause)
    assert set(expected) | HAZARD_ONLY == set(METRICS)
    censored = {
        row["metric"]: row["value"]
        for row in evaluate(made, metrics=list(METRICS), horizons_days=(HORIZON,)).to_dicts()
    }
    for name, one in expected.items():
        assert (found[name]["value"], found[name]["standard_error"]) == pytest.approx(
            (one.estimate, one.standard_error), rel=1e-12
        )
        assert abs(found[name]["value"] - censored[name]) > 1e-6
    assert {row["n_events"] for row in found.values()} == {int((made.target.event == cause).sum())}
    reads = {name for name in expected if METRICS.get(name).reads_survival}
    assert reads == {"integrated_brier_score", "brier_score", "calibration_in_the_large"}
    said = (
        f"1 - survival is read as the cumulative incidence of event {cause}; survival by a model "
        "that censors competing events"
    )
    assert {name for name in expected if said in (found[name]["note"] or "")} == reads


@pytest.mark.parametrize("name", sorted(HAZARD_ONLY))
def test_what_has_no_form_for_competing_events_is_null_with_its_reason(name):
    (row,) = evaluate(predictions(), metrics=(name,), horizons_days=(HORIZON,), cause=1).to_dicts()
    assert row["value"] is None
    assert row["note"].startswith(f"{name} does not know competing events; given ")


def test_without_a_cause_other_events_are_censored():
    made = predictions()
    censored = Predictions(
        made.table.with_columns(event=(pl.col("event") == 1).cast(pl.Int8)), TIMES
    )
    options = {"metrics": list(METRICS), "horizons_days": (HORIZON,)}
    assert evaluate(made, **options).equals(evaluate(censored, **options))


def test_the_censoring_curve_of_train_censors_code_0_alone():
    made, train = predictions(), predictions(1).target
    rows = {"cluster": made.table["subject_id"].to_numpy(), "cause": 1}
    found = averaged(made, "concordance_index_ipcw", censoring="train", train=train, cause=1)
    expected = concordance_index_ipcw(
        made.target.time, made.target.event, made.risk, censoring=train, **rows
    )
    assert (found.estimate, found.standard_error) == pytest.approx(
        (expected.estimate, expected.standard_error), rel=1e-12
    )
    others_censored = Outcomes(train.time, (train.event == 1).astype(int))
    assert (
        averaged(
            made, "concordance_index_ipcw", censoring="train", train=others_censored, cause=1
        ).estimate
        != found.estimate
    )


def test_folds_and_subgroups_are_judged_by_the_cause():
    made = predictions(folds=3)
    parts = [made.filter(pl.col("fold") == fold) for fold in range(3)]
    values = [
        concordance_index(
            part.target.time,
            part.target.event,
            part.risk,
            cluster=part.table["subject_id"].to_numpy(),
            cause=2,
        ).estimate
        for part in parts
    ]
    assert averaged(made, "concordance_index", cause=2).estimate == pytest.approx(
        np.mean(values), abs=1e-14
    )
    table = subgroups(
        predictions(),
        "site",
        metrics=("concordance_index", "brier_score"),
        horizons_days=(HORIZON,),
        cause=2,
    )
    for site in ("north", "south"):
        part = predictions().filter(pl.col("site") == site)
        alone = evaluate(
            part, metrics=("concordance_index", "brier_score"), horizons_days=(HORIZON,), cause=2
        )
        assert table.filter(pl.col("level") == site).drop("subgroup", "level").equals(alone)


def test_a_paired_difference_is_of_the_cause():
    made = predictions()
    other = Predictions(made.table.with_columns(risk=pl.col("risk").shuffle(seed=0)), TIMES)
    found = averaged(made, "concordance_index_ipcw", reference=other, cause=2)
    rows = {"cluster": made.table["subject_id"].to_numpy(), "cause": 2}
    expected = compare_concordance_ipcw(
        made.target.time, made.target.event, made.risk, other.risk, **rows
    )
    assert (found.estimate, found.standard_error) == pytest.approx(
        (expected.difference, expected.standard_error), rel=1e-12
    )


@pytest.mark.parametrize("wrong", [0, -2])
def test_a_cause_that_is_no_event_is_refused(wrong):
    with pytest.raises(
        ConfigError, match=f"cause is {wrong}; expected the code of an event, 1 or above"
    ):
        evaluate(predictions(), cause=wrong)


@pytest.mark.parametrize("absent", [3, 300])
def test_a_cause_that_nobody_had_is_null_with_its_reason(absent):
    table = evaluate(predictions(), metrics=PLAIN[:1], cause=absent)
    assert table["value"].to_list() == [None]
    assert table["n_events"].to_list() == [0]


def test_a_metric_without_a_form_for_competing_events_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(METRICS.get("brier_score"), "takes_cause", False)
    others = ", ".join(name for name in METRICS if name != "brier_score")
    with pytest.raises(
        ConfigError,
        match=f"brier_score has no form for competing events; those that have: {others}",
    ):
        evaluate(predictions(), metrics=("brier_score",), horizons_days=(HORIZON,), cause=1)
    assert (
        evaluate(predictions(), metrics=("brier_score",), horizons_days=(HORIZON,))[
            "value"
        ].null_count()
        == 0
    )
