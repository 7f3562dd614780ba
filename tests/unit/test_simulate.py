from __future__ import annotations

import hashlib
import json

import nibabel as nib
import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from concordant.config import read_study
from concordant.core.errors import ConcordantError
from concordant.core.survival import read_predictions
from concordant.data.cohort import read_cohort
from concordant.data.meds import read_events
from concordant.data.volumes import read_volume
from concordant.encoders import code_counts, volume_features
from concordant.engines import LocalEngine
from concordant.metrics import concordance_index
from concordant.simulate import SimulationOptions, simulate
from concordant.simulation.codes import PALLIATIVE
from concordant.simulation.subjects import draw_subjects, sites

SMALL = SimulationOptions(n_development=60, n_external=24, missing_ct=0.1, missing_ehr=0.1, seed=3)
READABLE = SimulationOptions(n_development=400, n_external=40, seed=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("small") / "cohort", SMALL)


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("readable") / "cohort", READABLE)


def cohorts(simulated):
    development = read_cohort(
        simulated.development, meds=simulated.development.parent / "meds", splits_required=True
    )
    external = read_cohort(
        simulated.external, meds=simulated.external.parent / "meds", splits_required=False
    )
    return development, external


def meds_rows(cohort):
    return pl.concat(
        [pl.read_parquet(path) for path in sorted((cohort.meds / "data").rglob("*.parquet"))]
    )


def test_the_cohort_tables_hold_what_the_house_expects(small):
    development, external = cohorts(small)
    assert (len(development), len(external)) == (60, 24)
    assert [
        len(development.rows(split)) for split in ("train", "tuning", "held_out")
    ] == pytest.approx([36, 9, 15], abs=1)
    assert external.table["split"].null_count() == 24
    assert set(development.table["site"]) | set(external.table["site"]) == {"site_a", "site_b"}
    assert not set(development.table["subject_id"]) & set(external.table["subject_id"])
    assert {"age", "sex"} <= set(development.table.columns)
    assert bool((development.table["time_days"] == development.table["time_days"].round()).all())


def test_every_scan_is_there_and_reads_as_a_chest_whatever_its_orientation(small):
    orientations, spacings = set(), []
    for cohort in cohorts(small):
        paths = [cohort.ct_path(row) for row in range(len(cohort))]
        assert 0 < sum(path is None for path in paths) < len(paths) / 3
        for path in filter(None, paths):
            image = nib.load(path)
            assert image.get_data_dtype() == np.int16
            orientations.add(nib.aff2axcodes(image.affine))
            volume = read_volume(path)
            spacings += volume.spacing_mm
            lungs = (
                volume.voxels[16:32, 18:30, 10:16].mean(),
                volume.voxels[16:32, 18:30, 32:38].mean(),
            )
            assert max(lungs) < -400  # to the left and to the right of the midline
            assert volume.voxels[4:44, 9:14, 22:26].mean() > 400  # the spine, posterior
            assert volume.voxels[20:28, 40:47, 20:28].mean() < 60  # fat and air, anterior
    assert len(orientations) > 15
    assert min(spacings) >= 0.9 - 1e-6
    assert max(spacings) <= 2.5 + 1e-6
    assert np.std(spacings) > 0.3


def test_records_are_meds_in_order_and_go_on_after_the_prediction_time(small):
    for cohort in cohorts(small):
        rows = meds_rows(cohort)
        assert rows.schema == {
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
        }
        assert rows["subject_id"].rle().len() == rows["subject_id"].n_unique()  # contiguous
        for _, own in rows.group_by("subject_id", maintain_order=True):
            assert own["time"].is_sorted(nulls_last=False)
            assert own["time"].is_null().sum() == 1
            assert own["code"][0].startswith("GENDER//")
            assert own["code"][1] == "MEDS_BIRTH"
        splits = pl.read_parquet(cohort.meds / "metadata" / "subject_splits.parquet")
        assert set(splits["subject_id"]) == set(rows["subject_id"])
        assert set(rows["code"]) <= set(
            pl.read_parquet(cohort.meds / "metadata" / "codes.parquet")["code"]
        )
        json.loads((cohort.meds / "metadata" / "dataset.json").read_text())


def test_each_shard_holds_the_subjects_of_its_split(small):
    development, _ = cohorts(small)
    split_of = dict(development.table.select("subject_id", "split").iter_rows())
    for path in (development.meds / "data").rglob("*.parquet"):
        assert {split_of[subject] for subject in pl.read_parquet(path)["subject_id"].unique()} == {
            path.parent.name
        }


def codes_of(records):
    return {code for sample_id in records for code in records.events(sample_id).code}


def test_deaths_and_what_follows_them_come_after_the_prediction_time_and_are_cut(small):
    development, _ = cohorts(small)
    table = development.table.select("subject_id", "prediction_time", "time_days", "event")
    late = (
        meds_rows(development)
        .join(table, on="subject_id")
        .filter(pl.col("time") > pl.col("prediction_time"))
    )
    deaths = late.filter(pl.col("code") == "MEDS_DEATH")
    with_record = table.filter(
        pl.col("subject_id").is_in(meds_rows(development)["subject_id"].unique().to_list())
    )
    assert set(deaths["subject_id"]) == set(with_record.filter(pl.col("event") == 1)["subject_id"])
    elapsed = (deaths["time"] - deaths["prediction_time"]).dt.total_seconds() / 86_400
    np.testing.assert_allclose(elapsed, deaths["time_days"])
    assert late.filter(pl.col("code") == PALLIATIVE)["subject_id"].n_unique() == deaths.height
    assert late.filter(pl.col("code") == "ICD10CM//I10").height > 0  # visits go on

    records = read_events(development.meds, development.table)
    assert records.counts.n_after_prediction == late.height
    assert not {PALLIATIVE, "MEDS_DEATH"} & codes_of(records)


def test_who_lacks_a_modality_is_told_by_the_truth(small):
    truth = pl.read_parquet(small.truth)
    development, external = cohorts(small)
    for cohort in (development, external):
        with_record = set(meds_rows(cohort)["subject_id"])
        known = dict(truth.select("sample_id", "available").iter_rows())
        for row, (sample, subject) in enumerate(
            cohort.table.select("sample_id", "subject_id").iter_rows()
        ):
            ct, ehr = cohort.ct_path(row) is not None, subject in with_record
            assert (
                known[sample]
                == {
                    (True, True): "both",
                    (True, False): "ct",
                    (False, True): "ehr",
                    (False, False): "none",
                }[ct, ehr]
            )
    assert set(truth["available"]) >= {"both", "ct", "ehr"}


def test_the_truth_is_what_its_definition_says(small):
    options = SMALL.model_copy(update={"interaction": 0.5, "n_external": 20_000})
    _, external = sites(options)
    truth = draw_subjects(external, options)
    ct, ehr, shared = (truth[f"factor_{name}"].to_numpy() for name in ("ct", "ehr", "shared"))
    expected = 0.8 * ct + 0.8 * ehr + 0.6 * shared + 0.5 * ct * ehr
    np.testing.assert_allclose(truth["log_hazard"], expected)
    np.testing.assert_allclose(truth["oracle_both"], expected)
    # the conditional expectation, the slow way: the mean over subjects with nearly the same seen
    # factors
    seen = np.abs(ct - 1.0) < 0.15
    residual = truth["log_hazard"].to_numpy() - truth["oracle_ct"].to_numpy()
    assert residual[seen].mean() == pytest.approx(0.0, abs=0.1)
    assert residual.mean() == pytest.approx(0.0, abs=0.05)
    assert np.corrcoef(residual, truth["oracle_ct"])[0, 1] == pytest.approx(0.0, abs=0.03)
    np.testing.assert_allclose(
        [ct.mean(), ehr.mean(), shared.mean()], options.case_mix_shift, atol=0.03
    )


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.7])
def test_censoring_has_the_expected_share_and_splits_the_asked_sizes(share):
    options = SimulationOptions(n_development=20_000, censoring=share)
    subjects = draw_subjects(sites(options)[0], options)
    assert 1 - subjects["event"].mean() == pytest.approx(share, abs=0.015)
    assert subjects["time_days"].min() >= 1
    shares = subjects["split"].value_counts(normalize=True)
    assert dict(shares.iter_rows()) == pytest.approx(
        {"train": 0.6, "tuning": 0.15, "held_out": 0.25}, abs=1e-3
    )


def test_the_defaults_make_modalities_comparable_and_fusion_worthwhile():
    options = SimulationOptions(n_development=20_000)
    subjects = draw_subjects(sites(options)[0], options)
    time, event = subjects["time_days"].to_numpy(), subjects["event"].to_numpy()
    found = {
        seen: concordance_index(time, event, subjects[f"oracle_{seen}"].to_numpy()).estimate
        for seen in ("ct", "ehr", "both")
    }
    assert 0.68 <= found["ct"] <= 0.72
    assert 0.68 <= found["ehr"] <= 0.72
    assert 0.76 <= found["both"] <= 0.80
    days, survival = kaplan_meier_estimator(event == 1, time)
    assert 365 <= days[survival <= 0.5][0] <= 730


def test_the_summary_states_the_oracles(small):
    summary = json.loads(small.summary.read_text())
    assert SimulationOptions.model_validate(summary["options"]) == SMALL
    rows = {
        (row["site"], row["split"], row["modalities"]): row for row in summary["oracle_concordance"]
    }
    assert len(rows) == len(summary["oracle_concordance"]) == 3 * (4 + 1)
    oracle = read_predictions(small.oracle("both"))
    for site, split in (("site_a", None), ("site_a", "held_out"), ("site_b", None)):
        truth = pl.read_parquet(small.truth).filter(pl.col("site") == site)
        own = oracle.filter(
            pl.col("sample_id").is_in(
                (truth if split is None else truth.filter(pl.col("split") == split))[
                    "sample_id"
                ].to_list()
            )
        )
        expected = concordance_index(own.target.time, own.target.event, own.risk)
        assert rows[site, split, "both"]["concordance_index"] == pytest.approx(expected.estimate)
        assert rows[site, split, "both"]["n"] == own.table.height


def test_the_study_can_be_read_as_it_is(small):
    study = read_study(small.study)
    assert len(study.strategies()) == 14


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(small, tmp_path):
    again = simulate(tmp_path / "again", SMALL, engine=LocalEngine(2))
    other = simulate(tmp_path / "other", SMALL.model_copy(update={"seed": 4}))
    assert digests(again.folder) == digests(small.folder)
    assert digests(other.folder).keys() != digests(small.folder).keys() or digests(
        other.folder
    ) != digests(small.folder)


def test_the_external_site_differs_as_asked(readable):
    development, external = cohorts(readable)
    means = [
        np.mean(
            [
                read_volume(path).voxels[:, 0].mean()
                for path in map(cohort.ct_path, range(30))
                if path
            ]
        )
        for cohort in (development, external)
    ]
    air = -1000.0
    assert means[0] == pytest.approx(air, abs=2)
    assert means[1] == pytest.approx(air * 1.02 + 20, abs=2)
    codes = [codes_of(read_events(cohort.meds, cohort.table)) for cohort in (development, external)]
    assert any(code.startswith("LOCAL//") for code in codes[1] - codes[0])
    assert len(codes[0] - codes[1]) >= 3


def test_without_shifts_both_sites_write_codes_alike(tmp_path):
    options = SMALL.model_copy(
        update={
            "intensity_shift": 0.0,
            "coding_shift": 0.0,
            "case_mix_shift": 0.0,
            "n_external": 40,
        }
    )
    _, external = cohorts(simulate(tmp_path / "alike", options))
    assert not any(code.startswith("LOCAL//") for code in meds_rows(external)["code"])


def scan_features(cohort, rows):
    encoder = volume_features.VolumeFeatures()
    embeddings = [encoder.encode([read_volume(cohort.ct_path(row))])[0] for row in rows]
    return np.stack([np.concatenate([each.pooled, each.tokens.mean(0)]) for each in embeddings])


def record_features(cohort, rows):
    records = read_events(cohort.meds, cohort.table)
    encoded = code_counts.OneHot(values="last").encode(
        [records.events(cohort.sample_ids[row]) for row in rows]
    )
    known = [dict(zip(each.codes, each.weights.tolist(), strict=True)) for each in encoded]
    columns = sorted({code for record in known for code in record})
    dense = np.array(
        [
            [record.get(code, np.nan if code.endswith("//last") else 0.0) for code in columns]
            for record in known
        ]
    )
    return np.where(np.isnan(dense), np.nanmean(dense, axis=0), dense)


@pytest.mark.parametrize(
    ("modality", "factors"), [("ct", ("ct", "shared")), ("ehr", ("ehr", "shared"))]
)
def test_a_plain_model_reads_what_each_modality_shows_and_nears_its_oracle(
    readable, modality, factors
):
    development, _ = cohorts(readable)
    truth = pl.read_parquet(readable.truth).filter(pl.col("site") == "site_a")
    has = truth["available"].is_in(["both", modality]).to_numpy()
    rows = np.flatnonzero(has)
    features = (
        scan_features(development, rows) if modality == "ct" else record_features(development, rows)
    )
    train = np.isin(rows, development.rows("train"))
    target = development.target.take(rows)

    for name in factors:
        factor = truth[f"factor_{name}"].to_numpy()[rows]
        reader = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 4, 11))).fit(
            features[train], factor[train]
        )
        assert reader.score(features[~train], factor[~train]) > 0.8

    outcome = Surv.from_arrays(target.event == 1, target.time)
    model = make_pipeline(StandardScaler(), CoxPHSurvivalAnalysis(alpha=500)).fit(
        features[train], outcome[train]
    )
    test = target.take(np.flatnonzero(~train))
    reached = concordance_index(test.time, test.event, model.predict(features[~train])).estimate
    oracle = concordance_index(
        test.time, test.event, truth[f"oracle_{modality}"].to_numpy()[rows][~train]
    ).estimate
    assert reached > oracle - 0.05


def test_what_lies_in_the_way_is_never_lost(small, tmp_path):
    with pytest.raises(ConcordantError, match="choose another folder, or --overwrite"):
        simulate(small.folder, SMALL)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("three years")
    with pytest.raises(ConcordantError, match="never overwritten"):
        simulate(precious, SMALL, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "three years"


def test_a_failure_leaves_nothing_half_written_and_an_earlier_cohort_can_be_replaced(tmp_path):
    out = tmp_path / "cohort"
    out.mkdir()

    class InterruptionError(Exception):
        pass

    def interrupt(stage, done, total):
        raise InterruptionError

    with pytest.raises(InterruptionError):
        simulate(out, SMALL, progress=interrupt)
    assert list(tmp_path.iterdir()) == [out]
    assert not any(out.iterdir())

    simulate(out, SMALL)
    seen = []
    replaced = simulate(
        out,
        SMALL.model_copy(update={"seed": 9}),
        overwrite=True,
        progress=lambda stage, done, total: seen.append((done, total)),
    )
    assert json.loads(replaced.summary.read_text())["options"]["seed"] == 9
    assert seen[-1][0] == seen[-1][1]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "wrong", [{"n_development": 10}, {"censoring": 1.0}, {"volume_size": 32}, {"seeds": 1}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        SimulationOptions(**wrong)


def test_every_option_says_what_it_does():
    assert all(field.description for field in SimulationOptions.model_fields.values())
