"""Families of contrasts.

Every adjusted number recomputed straight from the predictions, by another road.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from candidates_fixture import CT, EHR, TIMES, N, candidates
from concordant.analysis.candidates import CHOSEN_PER_FOLD
from concordant.analysis.compare import compare_files, contrasts
from concordant.analysis.gains import GAIN_SCHEMA, gains_over_both
from concordant.core.errors import ConfigError
from concordant.core.survival import Predictions
from concordant.evaluation import averaged
from concordant.metrics import (
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    simultaneous,
)

FUSIONS = ("concat", "late", "linear", "contrastive")


def models(**options):
    fusions = [(fusion, 0.9 + 0.2 * place, 0.75) for place, fusion in enumerate(FUSIONS)]
    return candidates([(CT, 0.6, 0.7), (EHR, 0.5, 0.6), *fusions], **options)


def in_order(one):
    """A model's predictions for held_out, the two samples of a subject side by side."""
    given = one.predictions["held_out"]
    return Predictions(
        given.table.sort(pl.col("sample_id").str.split("-").list.get(1).cast(pl.Int64)),
        given.survival_times_days,
    )


def family(table, metric="concordance_index"):
    own = table.filter(
        pl.col("cohort") != "west", pl.col("family").is_not_null(), pl.col("metric") == metric
    )
    return own.sort(pl.col("fusion").replace_strict(FUSIONS, range(4)))


def concordances(made):
    parts = {one.fusion: in_order(one) for one in made}
    return {
        name: concordance_index(
            part.target.time,
            part.target.event,
            part.risk,
            cluster=part.table["subject_id"].to_numpy(),
        )
        for name, part in parts.items()
    }


def own_concordance(part):
    return concordance_index(
        part.target.time, part.target.event, part.risk, cluster=part.table["subject_id"].to_numpy()
    ).estimate


def summed(influence):
    return influence.reshape(-1, 2).sum(1)  # two samples per subject


def test_max_t_is_that_of_the_joint_distribution_of_the_contrasts():
    made = models()
    table = family(contrasts(made, multiplicity="max_t"))
    alone = concordances(made)
    spread = np.stack([summed(alone[name].influence - alone[CT].influence) for name in FUSIONS])
    difference = np.array([alone[name].estimate - alone[CT].estimate for name in FUSIONS])
    covariance = spread @ spread.T
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    joint = stats.multivariate_t(np.zeros(4), correlation, df=N // 2 - 1, seed=0)
    drawn = np.abs(joint.rvs(200_000, random_state=0)).max(1)
    statistic = np.abs(difference) / np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(
        table["p_adjusted"], [(drawn >= one).mean() for one in statistic], atol=0.005
    )
    half = np.quantile(drawn, 0.95) * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(table["ci_low_simultaneous"], difference - half, atol=0.002)
    np.testing.assert_allclose(table["ci_high_simultaneous"], difference + half, atol=0.002)
    exact = simultaneous(difference, covariance, degrees=N // 2 - 1)
    np.testing.assert_allclose(table["p_adjusted"], exact.p_value, rtol=1e-9)
    assert table["multiplicity"].unique().to_list() == ["max_t"]
    assert (
        table["p_adjusted"].to_numpy() <= 4 * 2 * stats.t.sf(statistic, N // 2 - 1) + 1e-12
    ).all()  # never worse than Bonferroni


def test_max_t_under_cross_validation_sums_the_influences_of_a_sample_over_its_repeats():
    made = models(folds=3, repeats=2)
    table = family(contrasts(made, multiplicity="max_t"))
    reference = made[0].predictions["development"]  # better on tuning in every fold
    paired = [
        averaged(one.predictions["development"], "concordance_index", reference=reference)
        for one in made[2:]
    ]
    order = [np.argsort([int(sample.split("-")[1]) for sample in one.sample_id]) for one in paired]
    spread = np.stack(
        [summed(one.influence[rows]) for one, rows in zip(paired, order, strict=True)]
    )
    exact = simultaneous(
        np.array([one.estimate for one in paired]), spread @ spread.T, degrees=N // 2 - 1
    )
    np.testing.assert_allclose(table["p_adjusted"], exact.p_value, rtol=1e-9)
    np.testing.assert_allclose(table["ci_low_simultaneous"], exact.interval().low, rtol=1e-9)
    assert table["reference"].unique().to_list() == [CHOSEN_PER_FOLD]


def test_benjamini_hochberg_is_scipys():
    table = family(contrasts(models(), multiplicity="benjamini_hochberg"))
    np.testing.assert_allclose(
        table["p_adjusted"], stats.false_discovery_control(table["p_value"]), rtol=1e-12
    )
    assert table["ci_low_simultaneous"].null_count() == 4


def test_what_cannot_be_computed_leaves_the_rest_of_a_max_t_family():
    made = models()
    bare = made[3].predictions["held_out"]
    none = Predictions(bare.table.with_columns(survival=pl.lit(None, pl.List(pl.Float64))))
    made[3].predictions["held_out"] = none  # type: ignore[index]
    metric = "integrated_brier_score"
    table = family(contrasts(made, metrics=(metric,), multiplicity="max_t"), metric)
    assert table["p_adjusted"].is_null().to_list() == [False, True, False, False]
    assert table["note"][1] == "not every row has a survival curve"


def test_against_a_margin_every_concordance_is_tested_and_nothing_else():
    made = models()
    table = contrasts(made, metrics=("concordance_index", "integrated_brier_score"), margin=0.05)
    own = family(table)
    alone = concordances(made)
    for row, name in zip(own.to_dicts(), FUSIONS, strict=True):
        difference = alone[name].estimate - alone[CT].estimate
        error = np.sqrt((summed(alone[name].influence - alone[CT].influence) ** 2).sum())
        below, above = (
            stats.t.sf((difference + 0.05) / error, N // 2 - 1),
            stats.t.cdf((difference - 0.05) / error, N // 2 - 1),
        )
        assert row["margin"] == 0.05
        assert row["p_non_inferiority"] == pytest.approx(below, rel=1e-9)
        assert row["p_equivalence"] == pytest.approx(max(below, above), rel=1e-9)
    worst = own["p_non_inferiority"].arg_max()
    assert own["p_non_inferiority_adjusted"][worst] >= own["p_non_inferiority"][worst]
    smallest = own["p_equivalence"].arg_min()
    assert own["p_equivalence_adjusted"][smallest] == pytest.approx(
        min(1, 4 * own["p_equivalence"][smallest])
    )
    beside = table.filter(pl.col("family").is_null() & (pl.col("metric") == "concordance_index"))
    assert beside["p_non_inferiority"].null_count() == 0
    assert beside["p_non_inferiority_adjusted"].null_count() == beside.height
    assert family(table, "integrated_brier_score")["margin"].null_count() == 4


def test_the_nadeau_bengio_test_takes_folds_as_units_and_lets_for_their_overlap():
    made = models(folds=4, repeats=3)
    table = family(contrasts(made, test_train_ratio=1 / 3))
    for row, one in zip(table.to_dicts(), made[2:], strict=True):
        differences = []
        for repeat in range(3):
            for fold in range(4):
                here = (pl.col("repeat") == repeat) & (pl.col("fold") == fold)
                fused, reference = (
                    model.predictions["development"].filter(here) for model in (one, made[0])
                )
                values = [own_concordance(part) for part in (fused, reference)]
                differences.append(values[0] - values[1])
        error = np.sqrt(np.var(differences, ddof=1) * (1 / 12 + 1 / 3))
        assert row["p_nadeau_bengio"] == pytest.approx(
            2 * stats.t.sf(abs(np.mean(differences)) / error, 11), rel=1e-6
        )
    assert (
        contrasts(models(), test_train_ratio=1 / 3)["p_nadeau_bengio"].null_count() == 16
    )  # no folds


def test_contrasts_run_up_to_one_tau():
    made = models()
    table = contrasts(made, metrics=("concordance_index_ipcw", "integrated_brier_score"), tau=300)
    parts = {one.fusion: in_order(one) for one in made}
    target, cluster = parts[CT].target, parts[CT].table["subject_id"].to_numpy()
    for row in family(table, "concordance_index_ipcw").to_dicts():
        values = [
            concordance_index_ipcw(
                target.time, target.event, parts[name].risk, tau=300, cluster=cluster
            ).estimate
            for name in (row["fusion"], CT)
        ]
        assert row["difference"] == pytest.approx(values[0] - values[1], abs=1e-14)
        assert row["tau_days"] == 300
    for row in family(table, "integrated_brier_score").to_dicts():
        curves = [parts[name].survival[:, :2] for name in (row["fusion"], CT)]
        values = [
            integrated_brier_score(target.time, target.event, one, TIMES[:2]).estimate
            for one in curves
        ]
        assert row["difference"] == pytest.approx(values[0] - values[1], abs=1e-14)


def test_a_gain_over_both_is_the_worse_of_two_one_sided_tests():
    made = models()
    table = gains_over_both(
        made,
        metrics=("concordance_index", "brier_score", "calibration_slope"),
        horizons_days=(200,),
    )
    assert dict(table.schema) == {name: kind() for name, kind in GAIN_SCHEMA.items()}
    assert table["metric"].unique(maintain_order=True).to_list() == [
        "concordance_index",
        "brier_score",
    ]  # a slope has no direction
    alone = concordances(made)
    own = family(table)
    p_values = []
    for row, name in zip(own.to_dicts(), FUSIONS, strict=True):
        differences = [alone[name].estimate - alone[other].estimate for other in (CT, EHR)]
        errors = [
            np.sqrt((summed(alone[name].influence - alone[other].influence) ** 2).sum())
            for other in (CT, EHR)
        ]
        p = [
            stats.t.sf(one / error, N // 2 - 1)
            for one, error in zip(differences, errors, strict=True)
        ]
        quantile = stats.t.ppf(0.95, N // 2 - 1)
        limit = min(one - quantile * error for one, error in zip(differences, errors, strict=True))
        assert (row["gain_over_ct"], row["gain_over_ehr"]) == pytest.approx(
            tuple(differences), abs=1e-14
        )
        assert (row["p_over_ct"], row["p_over_ehr"], row["p_value"]) == pytest.approx(
            (*p, max(p)), rel=1e-9
        )
        assert (row["gain"], row["lower_limit"]) == pytest.approx(
            (min(differences), limit), abs=1e-7
        )
        p_values.append(max(p))
    order = np.argsort(p_values)
    expected = np.maximum.accumulate(np.array(p_values)[order] * [4, 3, 2, 1])
    np.testing.assert_allclose(
        own["p_adjusted"].to_numpy()[order], np.minimum(expected, 1), rtol=1e-9
    )
    brier = family(table, "brier_score").row(3, named=True)
    paired = averaged(
        made[5].predictions["held_out"],
        "brier_score",
        horizon_days=200,
        reference=made[0].predictions["held_out"],
    )
    assert brier["gain_over_ct"] == pytest.approx(-paired.estimate, abs=1e-14)


def test_a_gain_over_both_needs_both():
    made = models()
    assert gains_over_both([made[0], *made[2:]]).is_empty()
    assert gains_over_both([]).columns == list(GAIN_SCHEMA)


def test_wrong_choices_are_config_errors():
    with pytest.raises(ConfigError, match="Did you mean 'holm'"):
        contrasts(models(), multiplicity="hollm")
    for wrong in (0, -0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected a number > 0"):
            contrasts(models(), margin=wrong)


def test_files_are_adjusted_within_each_metric(tmp_path):
    paths = []
    for one in models():
        paths.append(tmp_path / f"{one.fusion}.parquet")
        one.predictions["held_out"].write(paths[-1])
    found = compare_files(
        paths,
        multiplicity="max_t",
        metrics=("concordance_index", "integrated_brier_score"),
        margin=0.05,
    ).differences
    expected = family(contrasts(models(), multiplicity="max_t"))
    assert found.height == 10
    for name, row in zip(FUSIONS, expected.to_dicts(), strict=True):
        own = found.row(
            by_predicate=(pl.col("file") == name) & (pl.col("metric") == "concordance_index"),
            named=True,
        )
        assert own["difference"] == pytest.approx(row["difference"], abs=1e-14)
        assert (
            row["p_value"] <= own["p_adjusted"] <= 1
        )  # a fifth contrast is in the family of the files
        assert own["ci_low_simultaneous"] < row["ci_low_simultaneous"]
    brier = found.filter(pl.col("metric") == "integrated_brier_score")
    assert (
        brier["p_non_inferiority"].null_count() == 0
    )  # the margin is in the units of whatever metric was asked for
