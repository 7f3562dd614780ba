"""Decision curves and calibration of the models of a study, recomputed from their predictions by
hand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from candidates_fixture import CT, EHR, TIMES, N, candidates, predictions
from concordant.analysis.calibration import (
    CALIBRATION_METRICS,
    GROUP_SCHEMA,
    calibration_groups,
    calibration_table,
)
from concordant.analysis.candidates import Candidate
from concordant.analysis.decision import (
    DECISION_SCHEMA,
    THRESHOLDS,
    TREAT_ALL,
    TREAT_NONE,
    decision_curves,
)
from concordant.core.survival import Predictions
from concordant.evaluation import averaged
from concordant.metrics import aalen_johansen, compare_net_benefit, kaplan_meier, net_benefit


def models(**options):
    return candidates(
        [(CT, 0.6, 0.7), (EHR, 0.5, 0.6), ("late", 0.9, 0.72), ("concat", 1.0, 0.75)], **options
    )


def at(table, **equal):
    return table.filter(*(pl.col(name) == value for name, value in equal.items()))


def event_by(horizon, time, event):
    """Probability of the event by Kaplan-Meier; once nobody is left without it, it stays 1."""
    curve = kaplan_meier(time, event)
    return (
        1.0
        if horizon > curve.times[-1] and curve.survival[-1] == 0
        else 1 - curve.at(np.array([horizon]))[0]
    )


def by_hand(part, horizon, threshold):
    """Net benefit as true positives minus false ones at the odds of the threshold, the event
    probability of the treated by Kaplan-Meier.
    """
    column = int(np.searchsorted(TIMES, horizon))
    treated = 1 - part.survival[:, column] >= threshold
    if not treated.any():
        return 0.0
    event = event_by(horizon, part.target.time[treated], part.target.event[treated])
    return treated.mean() * (event - (1 - event) * threshold / (1 - threshold))


def test_curves_are_those_of_the_best_fusion_its_parts_everybody_and_nobody():
    made = models()
    table = decision_curves(made, horizons_days=(100, 200))
    assert dict(table.schema) == {name: kind() for name, kind in DECISION_SCHEMA.items()}
    shown = ["concat", CT, EHR, TREAT_ALL, TREAT_NONE]  # late is worse on tuning
    keys = table.select("cohort", "horizon_days", "fusion").unique(maintain_order=True).rows()
    assert keys == [
        (cohort, horizon, name)
        for cohort in ("held_out", "west")
        for horizon in (100.0, 200.0)
        for name in shown
    ]
    assert table.height == len(keys) * len(THRESHOLDS)
    for cohort in ("held_out", "west"):
        for place, name in ((3, "concat"), (0, CT), (1, EHR)):
            part = made[place].predictions[cohort]
            own = at(table, cohort=cohort, horizon_days=200, fusion=name).drop_nulls("net_benefit")
            assert own.height > 40
            for row in own.to_dicts()[::7]:
                assert row["net_benefit"] == pytest.approx(
                    by_hand(part, 200, row["threshold"]), abs=1e-12
                )
        everybody = at(table, cohort=cohort, horizon_days=200, fusion=TREAT_ALL)
        overall = event_by(200.0, part.target.time, part.target.event)
        expected = overall - (1 - overall) * THRESHOLDS / (1 - THRESHOLDS)
        np.testing.assert_allclose(everybody["net_benefit"], expected, rtol=1e-10, atol=1e-12)
        nobody = at(table, cohort=cohort, horizon_days=200, fusion=TREAT_NONE)
        assert set(nobody["net_benefit"]) == set(nobody["standard_error"]) == {0.0}


def test_intervals_and_the_difference_to_the_reference_are_the_librarys():
    made = models()
    table = at(decision_curves(made, horizons_days=(200,)), cohort="held_out", fusion="concat")
    part, reference = (
        made[3].predictions["held_out"].table.sort("sample_id"),
        made[0].predictions["held_out"].table.sort("sample_id"),
    )
    time, event, cluster = (
        part["time_days"].to_numpy(),
        part["event"].cast(pl.Int64).to_numpy(),
        part["subject_id"].to_numpy(),
    )
    first, second = (1 - one["survival"].list.get(1).to_numpy() for one in (part, reference))
    alone = net_benefit(time, event, first, 200, THRESHOLDS, cluster=cluster)
    paired = compare_net_benefit(time, event, first, second, 200, THRESHOLDS, cluster=cluster)
    known = table.drop_nulls("net_benefit")
    np.testing.assert_allclose(known["threshold"], alone.thresholds)
    np.testing.assert_allclose(known["ci_low"], alone.interval().low, rtol=1e-9, atol=1e-12)
    both = table.drop_nulls("difference")
    np.testing.assert_allclose(both["threshold"], paired.thresholds)
    np.testing.assert_allclose(both["difference"], paired.difference, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        both["difference_ci_high"], paired.interval().high, rtol=1e-9, atol=1e-12
    )
    assert table["reference"].unique().to_list() == [CT]


def test_under_cross_validation_a_repeat_is_one_table_and_repeats_are_averaged():
    made = models(folds=4, repeats=3)
    table = at(decision_curves(made, horizons_days=(200,)), cohort="development", fusion="concat")
    given = made[3].predictions["development"]
    parts = [given.filter(pl.col("repeat") == repeat) for repeat in range(3)]
    for row in table.drop_nulls("net_benefit").to_dicts()[::9]:
        assert row["net_benefit"] == pytest.approx(
            np.mean([by_hand(part, 200, row["threshold"]) for part in parts]), abs=1e-12
        )
    once = at(
        decision_curves(models(folds=4), horizons_days=(200,)),
        cohort="development",
        fusion=TREAT_ALL,
    )
    again = at(decision_curves(made, horizons_days=(200,)), cohort="development", fusion=TREAT_ALL)
    np.testing.assert_allclose(
        again["standard_error"], once["standard_error"], rtol=1e-10
    )  # repeats are not subjects


def test_what_is_not_supported_is_null_and_says_why():
    table = decision_curves(models(), horizons_days=(200, 401, 5000))
    late = at(table, horizon_days=401, fusion="concat")
    assert (
        late["note"].to_list()
        == ["the survival curves end at 400 days, before the horizon of 401"] * 2
    )
    assert at(table, horizon_days=5000, fusion="concat")["threshold"].to_list() == [None, None]
    gone = at(table, horizon_days=200).filter(pl.col("net_benefit").is_null())
    assert set(gone["note"]) <= {"follow-up of those above the threshold ends before the horizon"}
    assert decision_curves([], horizons_days=(200,)).is_empty()
    assert decision_curves(models(), horizons_days=()).is_empty()
    alone = decision_curves(models()[:2], horizons_days=(200,))
    assert alone["fusion"].unique(maintain_order=True).to_list() == [CT, EHR, TREAT_ALL, TREAT_NONE]


def test_calibration_groups_are_kaplan_meier_in_tenths_of_the_prediction():
    made = models()
    table = calibration_groups(made, horizons_days=(200,))
    assert dict(table.schema) == {name: kind() for name, kind in GROUP_SCHEMA.items()}
    own = at(table, cohort="west", fusion="concat")
    assert own["n"].to_list() == [12] * 10
    part = made[3].predictions["west"]
    predicted = 1 - part.survival[:, 1]
    order = np.argsort(predicted).reshape(10, 12)
    for row, rows in zip(own.to_dicts(), order, strict=True):
        observed = event_by(200.0, part.target.time[rows], part.target.event[rows])
        assert (row["predicted"], row["observed"]) == pytest.approx(
            (predicted[rows].mean(), observed), abs=1e-12
        )
        assert 0 <= row["ci_low"] <= row["observed"] <= row["ci_high"] <= 1
    assert own["recalibrated"].to_list() == [False] * 10


def test_small_or_short_cohorts_have_fewer_groups_or_say_why_not():
    made = models()
    few = {"held_out": made[3].predictions["held_out"].filter(pl.col("subject_id") < 16)}
    table = calibration_groups(
        [Candidate("concat", "ctfm", "one_hot", None, 0, few, {None: 0.7})],
        horizons_days=(100, 4000),
    )
    assert 1 <= at(table, horizon_days=100).height <= 3
    (row,) = at(table, horizon_days=4000).to_dicts()
    assert row["observed"] is None
    assert "the survival curves end at 400 days" in row["note"]


def test_repeats_of_cross_validation_count_a_sample_once():
    table = at(
        calibration_groups(models(folds=4, repeats=3), horizons_days=(200,)),
        cohort="development",
        fusion="concat",
    )
    assert table["n"].sum() == N


def test_the_table_of_calibration_is_that_of_the_metrics():
    made = models()
    table = calibration_table(made, horizons_days=(100, 200), recalibrated=True)
    assert table.height == 4 * 2 * len(CALIBRATION_METRICS) * 2
    assert table["recalibrated"].all()
    for metric in CALIBRATION_METRICS:
        row = at(table, cohort="west", fusion="late", metric=metric, horizon_days=200).row(
            0, named=True
        )
        expected = averaged(made[2].predictions["west"], metric, horizon_days=200)
        assert (row["value"], row["standard_error"]) == pytest.approx(
            (expected.estimate, expected.standard_error)
        )
    assert calibration_table(made, horizons_days=()).is_empty()


# Models of others


def with_score(**options):
    """A study's models and somebody's score that covers one cohort."""
    score = Candidate("score", None, None, None, 0, {"west": predictions(0.8, 70, cohort=1)}, {})
    return [*models(**options), score], score.predictions["west"]


def test_a_model_of_others_stands_beside_ours_on_the_cohorts_it_covers():
    made, score = with_score()
    curves = decision_curves(made, horizons_days=(200,))
    assert at(curves, cohort="west")["fusion"].unique(maintain_order=True).to_list() == [
        "concat",
        CT,
        EHR,
        "score",
        TREAT_ALL,
        TREAT_NONE,
    ]
    assert "score" not in at(curves, cohort="held_out")["fusion"]
    own = at(curves, fusion="score").drop_nulls("net_benefit")
    assert own.height > 40
    for row in own.to_dicts()[::7]:
        assert row["net_benefit"] == pytest.approx(by_hand(score, 200, row["threshold"]), abs=1e-12)
    assert own["reference"].null_count() == own["ct_encoder"].null_count() == own.height
    groups = at(calibration_groups(made, horizons_days=(200,)), fusion="score")
    assert (groups["cohort"].unique().to_list(), groups["n"].sum()) == (["west"], N)
    metrics = at(calibration_table(made, horizons_days=(200,)), fusion="score")
    assert metrics["metric"].to_list() == list(CALIBRATION_METRICS)
    assert metrics["value"][0] == averaged(score, CALIBRATION_METRICS[0], horizon_days=200).estimate


def test_a_model_of_others_changes_nothing_of_ours():
    made, _ = with_score()
    for table in (decision_curves, calibration_groups, calibration_table):
        assert (
            table(made, horizons_days=(200,))
            .filter(pl.col("fusion") != "score")
            .equals(table(made[:-1], horizons_days=(200,)))
        )
    alone = decision_curves([*made[:2], made[-1]], horizons_days=(200,))
    assert at(alone, cohort="west")["fusion"].unique(maintain_order=True).to_list() == [
        CT,
        EHR,
        "score",
        TREAT_ALL,
        TREAT_NONE,
    ]


# Competing events


def compete(candidate, cohort="west"):
    """Give every third sample of a cohort, by its number, another event where it had one."""
    other = pl.col("sample_id").str.extract(r"-(\d+)$").cast(pl.Int64) % 3 == 0
    given = candidate.predictions[cohort]
    table = given.table.with_columns(
        event=pl.when(other & (pl.col("event") == 1)).then(2).otherwise("event").cast(pl.Int8)
    )
    return replace(candidate, predictions={cohort: Predictions(table, given.survival_times_days)})


def incidence_by(horizon, part, rows, cause):
    return aalen_johansen(part.target.time[rows], part.target.event[rows], cause=cause).at(
        np.array([horizon])
    )[0]


def test_with_a_cause_observed_and_worth_are_by_aalen_johansen():
    made = [compete(one) for one in models()]
    part = made[3].predictions["west"]
    predicted = 1 - part.survival[:, 1]
    groups = at(calibration_groups(made, horizons_days=(200,), cause=1), fusion="concat")
    for row, rows in zip(groups.to_dicts(), np.argsort(predicted).reshape(10, 12), strict=True):
        assert row["observed"] == pytest.approx(incidence_by(200.0, part, rows, 1), abs=1e-12)
    curves = at(decision_curves(made, horizons_days=(200,), cause=1), cohort="west")
    own = at(curves, fusion="concat").drop_nulls("net_benefit")
    for row in own.to_dicts()[::7]:
        treated = predicted >= row["threshold"]
        event = incidence_by(200.0, part, treated, 1) if treated.any() else 0.0
        worth = treated.mean() * (event - (1 - event) * row["threshold"] / (1 - row["threshold"]))
        assert row["net_benefit"] == pytest.approx(worth, abs=1e-12)
    everybody = at(curves, fusion=TREAT_ALL)
    overall = incidence_by(200.0, part, np.arange(N), 1)
    np.testing.assert_allclose(
        everybody["net_benefit"],
        overall - (1 - overall) * THRESHOLDS / (1 - THRESHOLDS),
        rtol=1e-10,
        atol=1e-12,
    )
    metrics = at(calibration_table(made, horizons_days=(200,), cause=1), fusion="concat")
    in_the_large = metrics.row(
        by_predicate=pl.col("metric") == "calibration_in_the_large", named=True
    )
    assert in_the_large["value"] == pytest.approx(overall / predicted.mean(), rel=1e-12)
    assert at(metrics, metric="calibration_slope")["value"].to_list() == [None]
    censored = calibration_groups(made, horizons_days=(200,))
    assert (at(censored, fusion="concat")["observed"] >= groups["observed"]).all()


def test_what_a_predicted_probability_is_taken_for_is_said_where_events_compete_and_nowhere_else():
    made = [compete(one) for one in models()]
    said = "1 - survival is read as the cumulative incidence of event 1"
    curves = decision_curves(made, horizons_days=(200,), cause=1).filter(
        pl.col("net_benefit").is_not_null()
    )
    ours = ~pl.col("fusion").is_in([TREAT_ALL, TREAT_NONE])
    assert curves.filter(ours)["note"].str.starts_with(said).all()
    assert curves.filter(~ours)["note"].null_count() == 2 * len(THRESHOLDS)
    assert (
        calibration_groups(made, horizons_days=(200,), cause=1)["note"].str.starts_with(said).all()
    )
    for table in (decision_curves, calibration_groups, calibration_table):
        assert said not in " ".join(table(made, horizons_days=(200,))["note"].drop_nulls())


@pytest.mark.parametrize("table", [decision_curves, calibration_groups, calibration_table])
def test_where_nothing_competes_a_cause_changes_nothing(table):
    assert table(models(folds=2), horizons_days=(200,), cause=1).equals(
        table(models(folds=2), horizons_days=(200,))
    )
