"""Decision curves and calibration of the models of a study, recomputed from their predictions by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from candidates_fixture import CT, EHR, TIMES, N, candidates
from concordant.analysis.calibration import CALIBRATION_METRICS, GROUP_SCHEMA, calibration_groups, calibration_table
from concordant.analysis.candidates import Candidate
from concordant.analysis.decision import DECISION_SCHEMA, THRESHOLDS, TREAT_ALL, TREAT_NONE, decision_curves
from concordant.evaluation import averaged
from concordant.metrics import compare_net_benefit, kaplan_meier, net_benefit


def models(**options):
    return candidates([(CT, 0.6, 0.7), (EHR, 0.5, 0.6), ("late", 0.9, 0.72), ("concat", 1.0, 0.75)], **options)


def at(table, **equal):
    return table.filter(*(pl.col(name) == value for name, value in equal.items()))


def event_by(horizon, time, event):
    """Probability of the event by Kaplan-Meier; once nobody is left without it, it stays 1."""
    curve = kaplan_meier(time, event)
    return 1.0 if horizon > curve.times[-1] and curve.survival[-1] == 0 else 1 - curve.at(np.array([horizon]))[0]


def by_hand(part, horizon, threshold):
    """Net benefit as true positives minus false ones at the odds of the threshold, the event probability of the treated by Kaplan-Meier."""
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
    assert keys == [(cohort, horizon, name) for cohort in ("held_out", "west") for horizon in (100.0, 200.0) for name in shown]
    assert table.height == len(keys) * len(THRESHOLDS)
    for cohort in ("held_out", "west"):
        for place, name in ((3, "concat"), (0, CT), (1, EHR)):
            part = made[place].predictions[cohort]
            own = at(table, cohort=cohort, horizon_days=200, fusion=name).drop_nulls("net_benefit")
            assert own.height > 40
            for row in own.to_dicts()[::7]:
                assert row["net_benefit"] == pytest.approx(by_hand(part, 200, row["threshold"]), abs=1e-12)
        everybody = at(table, cohort=cohort, horizon_days=200, fusion=TREAT_ALL)
        overall = event_by(200.0, part.target.time, part.target.event)
        expected = overall - (1 - overall) * THRESHOLDS / (1 - THRESHOLDS)
        np.testing.assert_allclose(everybody["net_benefit"], expected, rtol=1e-10, atol=1e-12)
        nobody = at(table, cohort=cohort, horizon_days=200, fusion=TREAT_NONE)
        assert set(nobody["net_benefit"]) == set(nobody["standard_error"]) == {0.0}


def test_intervals_and_the_difference_to_the_reference_are_the_librarys():
    made = models()
    table = at(decision_curves(made, horizons_days=(200,)), cohort="held_out", fusion="concat")
    part, reference = made[3].predictions["held_out"].table.sort("sample_id"), made[0].predictions["held_out"].table.sort("sample_id")
    time, event, cluster = part["time_days"].to_numpy(), part["event"].cast(pl.Int64).to_numpy(), part["subject_id"].to_numpy()
    first, second = (1 - one["survival"].list.get(1).to_numpy() for one in (part, reference))
    alone = net_benefit(time, event, first, 200, THRESHOLDS, cluster=cluster)
    paired = compare_net_benefit(time, event, first, second, 200, THRESHOLDS, cluster=cluster)
    known = table.drop_nulls("net_benefit")
    np.testing.assert_allclose(known["threshold"], alone.thresholds)
    np.testing.assert_allclose(known["ci_low"], alone.interval().low, rtol=1e-9, atol=1e-12)
    both = table.drop_nulls("difference")
    np.testing.assert_allclose(both["threshold"], paired.thresholds)
    np.testing.assert_allclose(both["difference"], paired.difference, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(both["difference_ci_high"], paired.interval().high, rtol=1e-9, atol=1e-12)
    assert table["reference"].unique().to_list() == [CT]


def test_under_cross_validation_a_repeat_is_one_table_and_repeats_are_averaged():
    made = models(folds=4, repeats=3)
    table = at(decision_curves(made, horizons_days=(200,)), cohort="development", fusion="concat")
    given = made[3].predictions["development"]
    parts = [given.filter(pl.col("repeat") == repeat) for repeat in range(3)]
    for row in table.drop_nulls("net_benefit").to_dicts()[::9]:
        assert row["net_benefit"] == pytest.approx(np.mean([by_hand(part, 200, row["threshold"]) for part in parts]), abs=1e-12)
    once = at(decision_curves(models(folds=4), horizons_days=(200,)), cohort="development", fusion=TREAT_ALL)
    again = at(decision_curves(made, horizons_days=(200,)), cohort="development", fusion=TREAT_ALL)
    np.testing.assert_allclose(again["standard_error"], once["standard_error"], rtol=1e-10)  # repeats are not subjects


def test_what_is_not_supported_is_null_and_says_why():
    table = decision_curves(models(), horizons_days=(200, 401, 5000))
    late = at(table, horizon_days=401, fusion="concat")
    assert late["note"].to_list() == ["the survival curves end at 400 days, before the horizon of 401"] * 2
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
        assert (row["predicted"], row["observed"]) == pytest.approx((predicted[rows].mean(), observed), abs=1e-12)
        assert 0 <= row["ci_low"] <= row["observed"] <= row["ci_high"] <= 1
    assert own["recalibrated"].to_list() == [False] * 10


def test_small_or_short_cohorts_have_fewer_groups_or_say_why_not():
    made = models()
    few = {"held_out": made[3].predictions["held_out"].filter(pl.col("subject_id") < 16)}
    table = calibration_groups([Candidate("concat", "ctfm", "one_hot", None, 0, few, {None: 0.7})], horizons_days=(100, 4000))
    assert 1 <= at(table, horizon_days=100).height <= 3
    (row,) = at(table, horizon_days=4000).to_dicts()
    assert row["observed"] is None
    assert "the survival curves end at 400 days" in row["note"]


def test_repeats_of_cross_validation_count_a_sample_once():
    table = at(calibration_groups(models(folds=4, repeats=3), horizons_days=(200,)), cohort="development", fusion="concat")
    assert table["n"].sum() == N


def test_the_table_of_calibration_is_that_of_the_metrics():
    made = models()
    table = calibration_table(made, horizons_days=(100, 200), recalibrated=True)
    assert table.height == 4 * 2 * len(CALIBRATION_METRICS) * 2
    assert table["recalibrated"].all()
    for metric in CALIBRATION_METRICS:
        row = at(table, cohort="west", fusion="late", metric=metric, horizon_days=200).row(0, named=True)
        expected = averaged(made[2].predictions["west"], metric, horizon_days=200)
        assert (row["value"], row["standard_error"]) == pytest.approx((expected.estimate, expected.standard_error))
    assert calibration_table(made, horizons_days=()).is_empty()
