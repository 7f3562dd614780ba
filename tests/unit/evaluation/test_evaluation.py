from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from concordant.core.errors import ConfigError, MetricError, PredictionsError
from concordant.core.survival import Outcomes, Predictions, completed
from concordant.evaluation import (
    METRICS,
    RESULT_SCHEMA,
    EvaluationProtocol,
    align,
    averaged,
    evaluate,
    measures,
    on_shared_samples,
    subgroups,
    support_days,
    tau_days,
)
from concordant.metrics import (
    brier_score,
    brier_score_at,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
)

TIMES = np.array([100.0, 200.0, 365.0, 600.0])
ALL = ("concordance_index", "concordance_index_ipcw", "integrated_brier_score", "brier_score")


def predictions(seed=0, n=120, *, folds=None, repeats=1, subjects=None, survival=True):
    """One cohort; `folds` many folds in each of `repeats` repeats, with a different risk in
    every repeat.
    """
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = (
        generator.exponential(400 * np.exp(-signal)),
        generator.exponential(600, size=n),
    )
    parts = []
    for repeat in range(repeats):
        risk = signal + generator.normal(size=n)
        part = pl.DataFrame(
            {
                "sample_id": [f"s{row}" for row in range(n)],
                "subject_id": np.arange(n) if subjects is None else subjects,
                "site": np.where(np.arange(n) % 3 == 0, "north", "south"),
                "time_days": np.minimum(time, censored) + 1,
                "event": (time <= censored).astype(int),
                "risk": risk,
                "survival": np.exp(-np.outer(np.exp(risk / 2), TIMES / 500)).tolist()
                if survival
                else [None] * n,
                "available": [("both", "ct")[row % 2] for row in range(n)],
                "repeat": [repeat if folds else None] * n,
                "fold": generator.permutation(np.arange(n) % folds) if folds else [None] * n,
            }
        )
        parts.append(completed(part))
    return Predictions(pl.concat(parts), TIMES if survival else None)


def test_without_folds_every_row_is_the_metric_itself():
    given = predictions(subjects=np.arange(120) // 2)
    target, cluster = given.target, given.table["subject_id"].to_numpy()
    table = evaluate(given, metrics=ALL, horizons_days=(200, 365))
    assert dict(table.schema) == {name: kind() for name, kind in RESULT_SCHEMA.items()}
    assert table["metric"].to_list() == [*ALL, "brier_score"]
    assert table["horizon_days"].to_list() == [None, None, None, 200.0, 365.0]
    expected = [
        concordance_index(target.time, target.event, given.risk, cluster=cluster),
        concordance_index_ipcw(target.time, target.event, given.risk, cluster=cluster),
        integrated_brier_score(target.time, target.event, given.survival, TIMES, cluster=cluster),
        *(
            brier_score_at(
                target.time, target.event, given.survival[:, k], TIMES[k], cluster=cluster
            )
            for k in (1, 2)
        ),
    ]
    np.testing.assert_allclose(table["value"], [one.estimate for one in expected], rtol=1e-13)
    np.testing.assert_allclose(
        table["standard_error"], [one.standard_error for one in expected], rtol=1e-12
    )
    np.testing.assert_allclose(
        table["ci_low"], [one.interval().low for one in expected], rtol=1e-12
    )
    np.testing.assert_allclose(
        table["ci_high"], [one.interval().high for one in expected], rtol=1e-12
    )
    assert table["n"].unique().to_list() == [120]
    assert table["n_events"].unique().to_list() == [int(target.observed.sum())]
    assert table["note"][2] == "times 100 to 600"


def test_cross_validation_averages_within_fold_values_over_folds_then_repeats():
    given = predictions(folds=4, repeats=3)
    means, influence = [], dict.fromkeys(given.table["sample_id"], 0.0)
    for repeat in range(3):
        values = []
        for fold in range(4):
            part = given.filter((pl.col("repeat") == repeat) & (pl.col("fold") == fold))
            one = concordance_index(part.target.time, part.target.event, part.risk)
            values.append(one.estimate)
            for sample, moved in zip(part.table["sample_id"], one.influence, strict=True):
                influence[sample] += moved / 12
        means.append(np.mean(values))
    row = evaluate(given, metrics=("concordance_index",)).row(0, named=True)
    assert row["value"] == pytest.approx(np.mean(means), abs=1e-14)
    assert row["standard_error"] == pytest.approx(
        np.sqrt(sum(value**2 for value in influence.values())), rel=1e-12
    )
    assert (row["n"], row["note"]) == (120, None)
    result = averaged(given, "concordance_index")
    np.testing.assert_allclose(
        result.influence, [influence[sample] for sample in result.sample_id], rtol=0, atol=1e-15
    )


def test_repeats_of_the_same_predictions_do_not_shrink_the_standard_error():
    once = predictions(folds=3)
    twice = Predictions(
        pl.concat([once.table, once.table.with_columns(pl.lit(1, pl.Int16).alias("repeat"))]), TIMES
    )
    first, second = averaged(once, "concordance_index"), averaged(twice, "concordance_index")
    assert second.estimate == pytest.approx(first.estimate, abs=1e-15)
    assert second.standard_error == pytest.approx(first.standard_error, rel=1e-12)
    assert second.n == first.n == 120


def test_samples_of_one_subject_in_several_repeats_are_one_cluster():
    given = predictions(folds=3, repeats=2, subjects=np.arange(120) // 4)
    result = averaged(given, "concordance_index")
    by_subject = dict.fromkeys(range(30), 0.0)
    for sample, moved in zip(result.sample_id, result.influence, strict=True):
        by_subject[int(sample[1:]) // 4] += moved
    assert result.standard_error == pytest.approx(
        np.sqrt(sum(value**2 for value in by_subject.values())), rel=1e-12
    )


def test_a_fold_without_an_event_is_left_out_and_the_note_says_so():
    given = predictions(folds=4, repeats=2)
    eventless = (pl.col("repeat") == 0) & (pl.col("fold") == 2)
    table = given.table.with_columns(
        event=pl.when(eventless).then(0).otherwise("event").cast(pl.Int8)
    )
    row = evaluate(Predictions(table, TIMES), metrics=("concordance_index",)).row(0, named=True)
    kept = [
        [
            concordance_index(part.target.time, part.target.event, part.risk).estimate
            for part in parts
        ]
        for parts in (
            [
                given.filter((pl.col("repeat") == 0) & (pl.col("fold") == fold))
                for fold in (0, 1, 3)
            ],
            [given.filter((pl.col("repeat") == 1) & (pl.col("fold") == fold)) for fold in range(4)],
        )
    ]
    assert row["value"] == pytest.approx((np.mean(kept[0]) + np.mean(kept[1])) / 2, abs=1e-14)
    assert row["note"].startswith("1 of 8 folds left out: none of the 30 rows has event 1")


def test_what_cannot_be_computed_is_null_with_its_reason():
    given = predictions(survival=False)
    table = evaluate(given, metrics=ALL, horizons_days=(200,))
    assert table["value"].is_null().to_list() == [False, False, True, True]
    assert table["note"][2] == "not every row has a survival curve"
    assert table["n"].to_list() == [120] * 4
    eventless = Predictions(given.table.with_columns(event=pl.lit(0, pl.Int8)))
    assert "event 1" in evaluate(eventless, metrics=("concordance_index",))["note"][0]
    empty = evaluate(given.filter(pl.lit(False)), metrics=("concordance_index",)).row(0, named=True)
    assert (empty["value"], empty["n"], empty["note"]) == (
        None,
        0,
        "the predictions table holds no row",
    )
    broken = Predictions(given.table.with_columns(subject_id=pl.lit(None, pl.Int64)))
    assert "subject_id holds nulls" in evaluate(broken, metrics=("concordance_index",))["note"][0]


def test_a_horizon_is_read_at_the_last_time_before_it_and_not_beyond_the_curves():
    given = predictions()
    table = evaluate(given, metrics=("brier_score",), horizons_days=(50, 250, 601))
    target = given.target
    before_all = brier_score(target.time, target.event, np.ones((120, 1)), np.array([50.0]))
    between = brier_score(target.time, target.event, given.survival[:, 1:2], np.array([250.0]))
    np.testing.assert_allclose(
        table["value"][:2], [before_all.estimate[0], between.estimate[0]], rtol=1e-13
    )
    assert table["value"][2] is None
    assert "end at 600 days" in table["note"][2]


@pytest.mark.parametrize("metric", ["concordance_index_ipcw", "integrated_brier_score"])
def test_the_censoring_curve_is_a_choice(metric):
    given = predictions()
    other = predictions(seed=1).target
    values = {
        source: evaluate(given, metrics=(metric,), censoring=source, train=other)["value"][0]
        for source in ("cohort", "train", "pooled")
    }
    assert len(set(values.values())) == 3
    assert (
        min(values["cohort"], values["train"])
        < values["pooled"]
        < max(values["cohort"], values["train"])
    )
    folds = averaged(predictions(folds=2), metric, censoring="train", train=other)
    assert folds.censoring_influence.shape == (120,)
    assert folds.standard_error**2 > (folds.influence**2).sum()


def test_a_paired_difference_is_the_difference_of_influences():
    first, second = predictions(folds=3, repeats=2), predictions(folds=3, repeats=2)
    other_risk = first.table["risk"] + np.random.default_rng(9).normal(size=240)
    second = Predictions(
        first.table.with_columns(risk=other_risk).sample(fraction=1, shuffle=True, seed=0), TIMES
    )
    paired = averaged(first, "concordance_index", reference=second)
    alone = [averaged(one, "concordance_index") for one in (first, align(second, first))]
    assert paired.estimate == pytest.approx(alone[0].estimate - alone[1].estimate, abs=1e-14)
    np.testing.assert_allclose(
        paired.influence, alone[0].influence - alone[1].influence, rtol=0, atol=1e-14
    )


def test_a_paired_difference_refuses_other_samples_outcomes_or_times():
    given = predictions()
    with pytest.raises(PredictionsError, match="same samples"):
        averaged(given, "concordance_index", reference=given.filter(pl.col("sample_id") != "s3"))
    later = Predictions(given.table.with_columns(pl.col("time_days") + 1), TIMES)
    with pytest.raises(PredictionsError, match="120 of 120 rows"):
        averaged(given, "concordance_index", reference=later)
    elsewhere = Predictions(given.table, TIMES + 1)
    with pytest.raises(MetricError, match="different times"):
        averaged(given, "integrated_brier_score", reference=elsewhere)
    assert averaged(given, "concordance_index", reference=elsewhere).estimate == 0


@pytest.mark.parametrize("column", ["site", "available"])
def test_subgroups_are_the_rows_of_each_level(column):
    given = predictions(folds=2)
    table = subgroups(given, column)
    levels = sorted(given.table[column].unique())
    assert table.columns == ["subgroup", "level", *RESULT_SCHEMA]
    assert table["level"].to_list() == [level for level in levels for _ in range(2)]
    for level in levels:
        rows = table.filter(pl.col("level") == level).drop("subgroup", "level")
        assert rows.equals(evaluate(given.filter(pl.col(column) == level)))


def test_rows_without_a_level_are_in_no_subgroup():
    given = predictions()
    foreign = Predictions(given.table.with_columns(available=pl.lit(None, pl.String)), TIMES)
    table = subgroups(foreign, "available")
    assert table.height == 0
    assert table.columns == ["subgroup", "level", *RESULT_SCHEMA]


def test_wrong_options_are_config_errors():
    given = predictions()
    with pytest.raises(ConfigError, match="Did you mean 'concordance_index_ipcw'"):
        evaluate(given, metrics=("concordance_index_ipwc",))
    with pytest.raises(
        ConfigError,
        match=r"give the days \(horizons_days, --horizon, task.horizons_days of a study\)",
    ):
        measures(("brier_score",))
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        evaluate(given, censoring="trian")
    with pytest.raises(ConfigError, match="needs train's outcomes"):
        evaluate(given, metrics=("concordance_index",), censoring="train")
    with pytest.raises(ConfigError, match="Did you mean 'available'"):
        subgroups(given, "availible")


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_keeps_its_contract(name):
    given = predictions(subjects=np.arange(120) // 3)
    metric = METRICS.create(name)
    horizon = 365.0 if metric.at_horizons else None
    result = averaged(given, name, horizon_days=horizon)
    assert result.influence.shape == (120,)
    assert result.sample_id.to_list() == given.table["sample_id"].to_list()
    assert abs(result.influence.sum()) < 1e-12
    assert result.n == 120
    order = np.random.default_rng(0).permutation(120)
    shuffled = averaged(Predictions(given.table[order], TIMES), name, horizon_days=horizon)
    assert shuffled.estimate == pytest.approx(result.estimate, abs=1e-13)
    assert shuffled.standard_error == pytest.approx(result.standard_error, rel=1e-10)
    external = Outcomes(given.target.time, given.target.event)
    assert averaged(
        given, name, horizon_days=horizon, censoring="train", train=external
    ).estimate == pytest.approx(result.estimate)
    with pytest.raises(MetricError):
        averaged(given.filter(pl.col("time_days") < 0), name, horizon_days=horizon)


# Up to which time


def cut(given, days):
    """The cohort as it would be had follow-up ended at some day."""
    beyond = pl.col("time_days") > days
    table = given.table.with_columns(
        event=pl.when(beyond).then(0).otherwise("event").cast(pl.Int8),
        time_days=pl.min_horizontal("time_days", days),
    )
    return Predictions(table, given.survival_times_days)


def test_tau_truncates_unos_index_and_the_integral_and_nothing_else():
    given = predictions(subjects=np.arange(120) // 2)
    target, cluster = given.target, given.table["subject_id"].to_numpy()
    table = evaluate(given, metrics=ALL, horizons_days=(200, 500), tau=400)
    uno = concordance_index_ipcw(target.time, target.event, given.risk, tau=400, cluster=cluster)
    integral = integrated_brier_score(
        target.time, target.event, given.survival[:, :3], TIMES[:3], cluster=cluster
    )
    plain = evaluate(given, metrics=ALL, horizons_days=(200, 500))
    expected = [plain["value"][0], uno.estimate, integral.estimate, *plain["value"][3:]]
    np.testing.assert_allclose(table["value"], expected, rtol=1e-13)
    np.testing.assert_allclose(
        table["standard_error"][1:3], [uno.standard_error, integral.standard_error], rtol=1e-12
    )
    assert table["tau_days"].to_list() == [None, 400.0, 400.0, None, None]
    assert table["note"][1].startswith("cases before 400 only: ")
    assert table["note"][2] == "times 100 to 365"
    last = target.time.max()
    assert plain["tau_days"].to_list() == [None, last, last, None, None]


def test_follow_up_beyond_tau_changes_nothing():
    given = predictions()
    long, short = (
        evaluate(one, metrics=ALL[1:2], tau=300).row(0, named=True)
        for one in (given, cut(given, 300))
    )
    for name in ("value", "standard_error"):
        assert long[name] == pytest.approx(short[name], rel=1e-12)


def test_a_tau_that_is_not_supported_is_said_and_never_an_error():
    given = cut(predictions(), 500)
    table = evaluate(given, metrics=ALL[1:3], tau=900)
    assert table["value"].to_list() == evaluate(given, metrics=ALL[1:3])["value"].to_list()
    assert table["tau_days"].to_list() == [500.0, 500.0]
    assert all(
        note.startswith("tau is 900 days, but only 500 are supported") for note in table["note"]
    )
    assert "only" in subgroups(given, "site", metrics=ALL[1:2], tau=900)["note"][0]
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected a number of days > 0"):
            evaluate(given, tau=wrong)


def test_nothing_before_tau_is_null_with_its_reason():
    table = evaluate(predictions(), metrics=ALL[:3], tau=0.5)
    assert table["value"].is_null().to_list() == [False, True, True]
    assert "no comparable pair" in table["note"][1]
    assert "two times or more before tau = 0.5" in table["note"][2]


def test_a_horizon_beyond_a_cohorts_follow_up_is_null_with_its_reason():
    table = evaluate(
        cut(predictions(), 300),
        metrics=("cumulative_dynamic_auc", "brier_score"),
        horizons_days=(200, 365),
    )
    assert table["value"].is_null().to_list() == [False, True, False, True]
    assert "follow-up ends at 300" in table["note"][1]


def test_the_common_time_is_the_least_of_what_every_cohort_supports():
    long, short = predictions(), cut(predictions(seed=1), 410)
    train = cut(predictions(seed=2), 250).target
    assert support_days(long) == long.target.time.max()
    assert tau_days("common", [long, short]) == support_days(short) == 410
    for source, expected in (("train", 250), ("pooled", 410), ("cohort", 410)):
        protocol = EvaluationProtocol(censoring=source, train=train)
        assert tau_days("common", [long, short], protocol) == expected
    assert tau_days("common", []) is None
    assert tau_days("cohort", [long, short]) is None
    assert tau_days(365, [long, short]) == 365
    with pytest.raises(PredictionsError, match="no row"):
        support_days(long.filter(pl.lit(False)))


def test_the_common_time_is_supported_in_every_fold():
    given = predictions(folds=3, repeats=2)
    least = min(part["time_days"].max() for part in given.table.partition_by("repeat", "fold"))
    assert support_days(given) == least < given.target.time.max()
    row = evaluate(given, metrics=ALL[1:2], tau=least).row(0, named=True)
    values = [
        concordance_index_ipcw(part.target.time, part.target.event, part.risk, tau=least).estimate
        for part in (Predictions(one) for one in given.table.partition_by("repeat", "fold"))
    ]
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-14)
    assert row["tau_days"] == least


# Weights


@pytest.mark.parametrize("name", list(METRICS))
def test_a_weight_of_two_is_a_second_copy_of_the_subject(name):
    given = predictions()
    weights = np.random.default_rng(5).integers(0, 3, 120)
    weighted = Predictions(given.table.with_columns(weight=pl.Series(weights)), TIMES)
    copies = given.table[np.repeat(np.arange(120), weights)].with_columns(
        sample_id=pl.int_range(pl.len()).cast(pl.String)
    )
    horizon = 365.0 if METRICS.get(name).at_horizons else None
    found, expected = (
        averaged(one, name, horizon_days=horizon, tau=500)
        for one in (weighted, Predictions(copies, TIMES))
    )
    assert found.estimate == pytest.approx(expected.estimate, rel=1e-10)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=1e-8)


@pytest.mark.parametrize("name", list(METRICS))
def test_weights_of_one_change_nothing(name):
    given = predictions(folds=2)
    horizon = 365.0 if METRICS.get(name).at_horizons else None
    weighted = Predictions(given.table.with_columns(weight=pl.lit(1.0)), TIMES)
    found, expected = (averaged(one, name, horizon_days=horizon) for one in (weighted, given))
    assert found.estimate == pytest.approx(expected.estimate, abs=1e-13)
    np.testing.assert_allclose(found.influence, expected.influence, rtol=0, atol=1e-12)


# Several results at once


def test_influences_are_brought_into_one_order():
    first = predictions(folds=2, subjects=np.arange(120) // 2)
    shuffled = Predictions(first.table.sample(fraction=1, shuffle=True, seed=1), TIMES)
    fewer = first.filter(pl.col("fold") == 0)
    a, b, c = on_shared_samples(
        [averaged(one, "concordance_index") for one in (first, shuffled, fewer)]
    )
    np.testing.assert_allclose(a.influence, b.influence, rtol=0, atol=1e-15)
    assert a.cluster is b.cluster is c.cluster
    assert len(c.influence) == 120
    assert (c.influence[60:] == 0).all()
    assert c.standard_error == pytest.approx(
        averaged(fewer, "concordance_index").standard_error, rel=1e-12
    )


def test_an_interval_stays_within_the_bounds_of_its_metric():
    few = predictions(seed=3, n=9)
    for row in evaluate(
        few, metrics=("concordance_index", "brier_score", "calibration_slope"), horizons_days=(365,)
    ).iter_rows(named=True):
        low, high = METRICS.get(row["metric"]).bounds
        assert low <= row["ci_low"] <= row["value"] <= row["ci_high"] <= high
    whole = averaged(few, "concordance_index").interval()
    cut = evaluate(few, metrics=("concordance_index",)).select("ci_low", "ci_high").row(0)
    assert whole[1] > 1  # the case that is tested
    assert cut == (whole[0], 1.0)


def test_what_a_single_cluster_cannot_tell_is_null_and_not_nan():
    (row,) = evaluate(
        predictions(n=30, subjects=[7] * 30), metrics=("brier_score",), horizons_days=(365,)
    ).to_dicts()
    assert 0 <= row["value"] <= 1
    assert row["standard_error"] is row["ci_low"] is row["ci_high"] is None


def test_a_value_without_variation_says_so():
    given = predictions(n=30)
    constant = Predictions(given.table.with_columns(risk=pl.lit(1.0)), given.survival_times_days)
    (row,) = evaluate(constant, metrics=("concordance_index",)).to_dicts()
    assert (row["value"], row["standard_error"]) == (0.5, 0.0)
    assert (
        row["note"] == "the subjects show no variation, so there is no interval; it is no certainty"
    )
    assert evaluate(given, metrics=("concordance_index",))["note"].to_list() == [None]
