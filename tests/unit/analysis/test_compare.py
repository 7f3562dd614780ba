from __future__ import annotations

import zlib

import numpy as np
import polars as pl
import pytest

from concordant.analysis.candidates import CHOSEN_PER_FOLD, Candidate
from concordant.analysis.compare import (
    CONTRAST_SCHEMA,
    FILE_DIFFERENCE_SCHEMA,
    compare_files,
    contrasts,
)
from concordant.core.errors import ConfigError, MetricError, PredictionsError
from concordant.core.survival import Predictions, completed
from concordant.evaluation import average_seeds, averaged
from concordant.metrics import compare_concordance, concordance_index, holm
from concordant.metrics.inference import wald_p_value

TIMES = np.array([100.0, 200.0, 400.0])
N = 90


def predictions(weight, noise_seed, *, cohort=0, folds=None, survival=True):
    """A risk with so much signal.

    The outcomes of a cohort (and its folds) are the same for every model.
    """
    truth, noise = np.random.default_rng(cohort), np.random.default_rng(noise_seed)
    signal = truth.normal(size=N)
    time, censored = truth.exponential(300 * np.exp(-signal)), truth.exponential(500, size=N)
    fold = truth.permutation(np.arange(N) % (folds or 1))
    risk = weight * signal + noise.normal(size=N)
    table = pl.DataFrame(
        {
            "sample_id": [f"{cohort}-{row}" for row in range(N)],
            "subject_id": np.arange(N) // 2,
            "site": ["here"] * N,
            "time_days": np.minimum(time, censored) + 1,
            "event": (time <= censored).astype(int),
            "risk": risk,
            "survival": np.exp(-np.outer(np.exp(risk / 2), TIMES / 400)).tolist()
            if survival
            else [None] * N,
            "available": ["both"] * N,
            "repeat": [0 if folds else None] * N,
            "fold": fold if folds else [None] * N,
        }
    )
    return Predictions(
        completed(table),
        TIMES if survival else None,
    )


def candidate(
    fusion,
    weight,
    tuning,
    *,
    ct="ctfm",
    ehr="one_hot",
    modality=None,
    seed=0,
    folds=None,
    survival=True,
):
    """One model with predictions for a cohort (under cross-validation or not) and for an
    external one.
    """
    name = "development" if folds else "held_out"
    noise_seed = zlib.crc32(f"{fusion} {ct} {ehr}".encode()) % 1000 * 10 + seed
    return Candidate(
        fusion=fusion,
        ct_encoder=ct,
        ehr_encoder=ehr,
        modality=modality,
        seed=seed,
        predictions={
            name: predictions(weight, noise_seed, folds=folds, survival=survival),
            "external": predictions(weight, noise_seed + 5000, cohort=1, survival=survival),
        },
        tuning=tuning if isinstance(tuning, dict) else {None: tuning},
    )


CT, EHR = "unimodal(modality=ct)", "unimodal(modality=ehr)"


def study(**options):
    """A scan that is better on held_out, a record that is better on tuning, two fusions."""
    return [
        candidate(CT, 1.5, 0.60, ehr=None, modality="ct", **options),
        candidate(EHR, 0.2, 0.65, ct=None, modality="ehr", **options),
        candidate("concat", 2.0, 0.7, **options),
        candidate("late", 1.0, 0.7, **options),
    ]


def of(table, **equal):
    return table.filter(
        *(
            pl.col(name).is_null() if value is None else pl.col(name) == value
            for name, value in equal.items()
        )
    )


def test_the_reference_is_chosen_on_tuning_never_on_the_test_cohort():
    models = study()
    table = contrasts(models)
    assert dict(table.schema) == {name: kind() for name, kind in CONTRAST_SCHEMA.items()}
    assert table.height == 2 * 2 * 2  # fusions, cohorts, references
    declared = table.filter(pl.col("family").is_not_null())
    assert declared["reference"].unique().to_list() == [EHR]
    beside = table.filter(pl.col("family").is_null())
    assert beside["reference"].unique().to_list() == [CT]
    assert beside["p_adjusted"].null_count() == beside.height
    assert beside["p_value"].null_count() == 0
    row = of(declared, fusion="concat", cohort="external").row(0, named=True)
    fused, reference = models[2].predictions["external"], models[1].predictions["external"]
    target, cluster = fused.target, fused.table["subject_id"].to_numpy()
    expected = compare_concordance(
        target.time, target.event, fused.risk, reference.risk, cluster=cluster
    )
    assert row["difference"] == pytest.approx(expected.difference, abs=1e-14)
    assert row["standard_error"] == pytest.approx(expected.standard_error, rel=1e-12)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(expected.interval()), rel=1e-12)
    assert row["p_value"] == pytest.approx(expected.p_value, rel=1e-10)
    assert (row["ct_encoder"], row["ehr_encoder"]) == ("ctfm", "one_hot")


def test_holm_runs_within_cohort_record_encoder_and_metric():
    models = [
        *study(),
        candidate(EHR, 0.3, 0.5, ct=None, ehr="clmbr", modality="ehr"),
        candidate("concat", 1.2, 0.7, ehr="clmbr"),
        candidate("late", 1.8, 0.7, ehr="clmbr"),
        candidate("contrastive", 0.5, 0.7, ehr="clmbr"),
    ]
    table = contrasts(
        models, metrics=("concordance_index", "brier_score"), horizons_days=(100, 200)
    )
    families = table.filter(pl.col("family").is_not_null()).partition_by("family")
    assert len(families) == 2 * 2 * 2
    assert sorted(len(family) for family in families) == [2, 2, 3, 3, 4, 4, 6, 6]
    for family in families:
        np.testing.assert_allclose(
            family["p_adjusted"], holm(family["p_value"].to_numpy()), rtol=1e-12
        )
        assert family.select("cohort", "ehr_encoder", "metric").n_unique() == 1
    clmbr = of(table, ehr_encoder="clmbr").filter(pl.col("family").is_not_null())
    assert clmbr["reference"].unique().to_list() == [
        CT
    ]  # the same scan model serves both record encoders


def test_seeds_are_averaged_before_anything_is_compared():
    seeds = [study(seed=seed) for seed in range(3)]
    table = contrasts([one for models in seeds for one in models])
    assert table.height == contrasts(seeds[0]).height
    target = seeds[0][2].predictions["held_out"].target
    cluster = seeds[0][2].predictions["held_out"].table["subject_id"].to_numpy()
    fused, reference = (
        np.mean([models[k].predictions["held_out"].risk for models in seeds], axis=0)
        for k in (2, 1)
    )
    expected = compare_concordance(target.time, target.event, fused, reference, cluster=cluster)
    row = of(table, fusion="concat", cohort="held_out", reference=EHR).row(0, named=True)
    assert row["difference"] == pytest.approx(expected.difference, abs=1e-14)
    assert row["standard_error"] == pytest.approx(expected.standard_error, rel=1e-12)


FOLDS = [(0, 0), (0, 1), (0, 2)]


def cross_validated():
    return [
        candidate(
            CT,
            1.5,
            dict(zip(FOLDS, (0.6, 0.8, float("nan")), strict=True)),
            ehr=None,
            modality="ct",
            folds=3,
        ),
        candidate(
            EHR,
            0.2,
            dict(zip(FOLDS, (0.7, 0.5, 0.5), strict=True)),
            ct=None,
            modality="ehr",
            folds=3,
        ),
        candidate("concat", 2.0, dict.fromkeys(FOLDS, 0.7), folds=3),
    ]


def test_under_cross_validation_the_reference_is_chosen_in_every_fold():
    ct, ehr, concat = models = cross_validated()
    row = of(contrasts(models), cohort="development", reference=CHOSEN_PER_FOLD).row(0, named=True)
    differences, influence = [], np.zeros(N)
    for (_, fold), better in zip(FOLDS, (ehr, ct, ehr), strict=True):
        parts = [
            one.predictions["development"].filter(pl.col("fold") == fold)
            for one in (concat, better)
        ]
        target, cluster = parts[0].target, parts[0].table["subject_id"].to_numpy()
        one = compare_concordance(
            target.time, target.event, parts[0].risk, parts[1].risk, cluster=cluster
        )
        differences.append(one.difference)
        influence[[int(sample.split("-")[1]) for sample in parts[0].table["sample_id"]]] = (
            one.influence / 3
        )
    error = np.sqrt((influence.reshape(-1, 2).sum(1) ** 2).sum())  # two samples per subject
    assert row["difference"] == pytest.approx(np.mean(differences), abs=1e-14)
    assert row["standard_error"] == pytest.approx(error, rel=1e-12)
    assert row["p_value"] == pytest.approx(
        wald_p_value(np.mean(differences), error, degrees=N // 2 - 1), rel=1e-10
    )
    beside = of(contrasts(models), cohort="development", family=None)
    assert sorted(beside["reference"]) == [CT, EHR]


def test_after_cross_validation_another_cohorts_reference_has_the_best_mean_tuning():
    models = cross_validated()
    table = of(contrasts(models), cohort="external")
    assert table.filter(pl.col("family").is_not_null())["reference"].to_list() == [
        CT
    ]  # mean .70 of two known, against .57


def test_curves_follow_their_rows_into_the_chosen_reference():
    ct, ehr, concat = models = cross_validated()
    row = of(contrasts(models, metrics=("integrated_brier_score",)), reference=CHOSEN_PER_FOLD).row(
        0, named=True
    )
    alone = {one.fusion: one.predictions["development"] for one in (ct, ehr)}
    pieces = [
        alone[name].filter(pl.col("fold") == fold) for fold, name in enumerate((EHR, CT, EHR))
    ]
    reference = Predictions(pl.concat([piece.table for piece in pieces]), TIMES)
    expected = averaged(
        concat.predictions["development"], "integrated_brier_score", reference=reference
    )
    assert row["difference"] == pytest.approx(expected.estimate, abs=1e-15)


def test_one_unimodal_model_is_its_own_reference():
    models = cross_validated()[1:]
    table = contrasts(models)
    assert table["reference"].unique().to_list() == [EHR]
    assert table["family"].null_count() == 0
    assert contrasts(models[1:]).height == 0
    assert contrasts(models[1:]).columns == list(CONTRAST_SCHEMA)


def test_what_cannot_be_compared_is_null_and_counts_in_its_family():
    models = study()
    bare = candidate("late", 1.0, 0.7, survival=False)
    table = of(
        contrasts([*models[:3], bare], metrics=("integrated_brier_score",)),
        cohort="held_out",
        reference=EHR,
    )
    assert of(table, fusion="late")["difference"].to_list() == [None]
    assert of(table, fusion="late")["p_adjusted"].to_list() == [None]
    concat = of(table, fusion="concat").row(0, named=True)
    assert concat["p_adjusted"] == pytest.approx(min(1.0, 2 * concat["p_value"]))


def test_models_must_hold_the_same_samples_and_a_tuning_concordance():
    models = study()
    fewer = {
        name: one.filter(pl.col("sample_id").str.ends_with("7").not_())
        for name, one in models[2].predictions.items()
    }
    with pytest.raises(PredictionsError, match="same samples"):
        contrasts(
            [*models[:2], Candidate("concat", "ctfm", "one_hot", None, 0, fewer, {None: 0.7})]
        )
    with pytest.raises(MetricError, match="no tuning concordance"):
        contrasts([candidate(CT, 1.5, {}, ehr=None, modality="ct"), *models[1:]])
    with pytest.raises(MetricError, match=r"fold \(0, 2\)"):
        contrasts(
            [
                candidate(CT, 1.5, dict.fromkeys(FOLDS[:2], 0.6), ehr=None, modality="ct", folds=3),
                *cross_validated()[1:],
            ]
        )


def test_average_seeds_matches_rows_and_keeps_the_first_order():
    first, second = predictions(1.0, 1, folds=3), predictions(1.0, 2, folds=3)
    shuffled = Predictions(second.table.sample(fraction=1, shuffle=True, seed=0), TIMES)
    mean = average_seeds([first, shuffled])
    assert mean.table["sample_id"].equals(first.table["sample_id"])
    assert mean.table.schema == first.table.schema
    np.testing.assert_allclose(mean.risk, (first.risk + second.risk) / 2, rtol=1e-14)
    np.testing.assert_allclose(mean.survival, (first.survival + second.survival) / 2, rtol=1e-14)
    assert average_seeds([first]) is first


def test_average_seeds_keeps_curves_only_where_all_have_the_same_times():
    first, bare = predictions(1.0, 1), predictions(1.0, 2, survival=False)
    elsewhere = Predictions(first.table, TIMES * 2)
    for other in (bare, elsewhere):
        mean = average_seeds([first, other])
        assert mean.survival is None
        assert mean.table["survival"].null_count() == N
    with pytest.raises(PredictionsError, match="one table per seed"):
        average_seeds([])


def write(folder, name, given, *, rows=N, columns=None):
    table = given.table[:rows] if columns is None else given.table[:rows].select(columns)
    path = folder / f"{name}.parquet"
    Predictions(table, given.survival_times_days if columns is None else None).write(path)
    return path


def test_files_are_compared_on_the_samples_they_share(tmp_path):
    first, second, third = (
        predictions(weight, seed) for seed, weight in enumerate((1.0, 0.4, 1.6))
    )
    paths = [
        write(tmp_path, "first", first),
        write(tmp_path, "second", Predictions(second.table.reverse(), TIMES), rows=80),
        write(tmp_path, "pesi", third, columns=["sample_id", "time_days", "event", "risk"]),
    ]
    result = compare_files(paths)
    assert (result.reference, result.n_shared) == ("first", 80)
    assert result.files["n_in_file"].to_list() == [90, 80, 90]
    assert result.files["n"].to_list() == [80, 80, 80]
    assert result.differences.columns == list(FILE_DIFFERENCE_SCHEMA)
    rows = np.arange(10, 90)
    target, cluster = (
        first.target.take(rows),
        rows // 2,
    )  # the foreign file does not know of the repeats, the others do
    for place, (name, one) in enumerate((("second", second), ("pesi", third))):
        expected = compare_concordance(
            target.time, target.event, one.risk[rows], first.risk[rows], cluster=cluster
        )
        row = result.differences.row(place, named=True)
        assert (row["file"], row["reference"]) == (name, "first")
        assert row["difference"] == pytest.approx(expected.difference, abs=1e-14)
        assert row["standard_error"] == pytest.approx(expected.standard_error, rel=1e-12)
    np.testing.assert_allclose(
        result.differences["p_adjusted"], holm(result.differences["p_value"].to_numpy())
    )
    alone = concordance_index(target.time, target.event, third.risk[rows], cluster=cluster)
    assert result.files["value"][2] == pytest.approx(alone.estimate)
    assert result.files["ci_low"][2] == pytest.approx(alone.interval().low)


def test_any_file_can_be_the_reference_and_any_metric_the_measure(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [
        write(tmp_path / "a", "model", predictions(1.0, 1)),
        write(tmp_path / "b", "model", predictions(0.5, 2)),
    ]
    result = compare_files(
        paths,
        str(paths[1]),
        metrics=("integrated_brier_score", "brier_score"),
        horizons_days=(100, 200),
    )
    assert result.reference == str(paths[1])
    assert result.differences["file"].unique().to_list() == [str(paths[0])]
    assert result.differences["metric"].to_list() == [
        "integrated_brier_score",
        "brier_score",
        "brier_score",
    ]
    assert result.differences["p_value"].null_count() == 0


def test_files_that_cannot_be_compared_are_refused(tmp_path):
    first = write(tmp_path, "first", predictions(1.0, 1))
    with pytest.raises(ConfigError, match="two predictions files"):
        compare_files([first])
    with pytest.raises(ConfigError, match="Did you mean 'first'"):
        compare_files([first, write(tmp_path, "second", predictions(1.0, 2))], "frist")
    with pytest.raises(PredictionsError, match="no sample"):
        compare_files([first, write(tmp_path, "elsewhere", predictions(1.0, 2, cohort=1))])
    later = predictions(1.0, 3)
    later = Predictions(later.table.with_columns(pl.col("time_days") + 1), TIMES)
    with pytest.raises(PredictionsError, match="later: 90 of 90 rows have another time_days"):
        compare_files([first, write(tmp_path, "later", later)])
