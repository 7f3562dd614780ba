"""A study from its files to its report.

Everything it promises to write, what it does again and what not, folds, foreign models.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
import yaml
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

from concordant.cli import app
from concordant.config import Study, read_study
from concordant.core.artifacts import MemberFolder, RunFolder
from concordant.core.errors import StoreError
from concordant.core.files import read_json
from concordant.core.survival import read_predictions
from concordant.engines import LocalEngine
from concordant.metrics import concordance_index
from concordant.simulate import SimulatedCohort
from concordant.study import run as run_module
from concordant.study import run_study
from study_fixture import FUSIONS, alter, files_of, small_study, study_text, write_tables

QUICK = {"max_epochs": 6, "patience": 3, "width": 8, "device": "cpu"}
RESULTS = [
    *("cohort", "site", "ct_encoder", "ehr_encoder", "fusion", "seed", "metric", "horizon_days"),
    *("value", "standard_error", "ci_low", "ci_high", "n", "n_events", "tau_days", "note"),
]
CONTRASTS = [
    *("cohort", "ct_encoder", "ehr_encoder", "fusion", "reference", "metric", "horizon_days"),
    *("difference", "standard_error", "ci_low", "ci_high", "p_value", "p_adjusted", "family"),
    *("multiplicity", "ci_low_simultaneous", "ci_high_simultaneous", "p_nadeau_bengio"),
    *(
        "margin",
        "p_non_inferiority",
        "p_non_inferiority_adjusted",
        "p_equivalence",
        "p_equivalence_adjusted",
        "tau_days",
        "note",
    ),
]
TABLES = {
    f"{name}.parquet"
    for name in ("results", "subgroups", "contrasts", "gains_over_both", "decision_curves")
}
TABLES |= {"calibration.parquet", "calibration_groups.parquet"}


class Stages:
    """Notes what a run says of itself."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.said.append((stage, done, total))

    def of(self, stage: str) -> list[tuple[int, int]]:
        return [(done, total) for name, done, total in self.said if name == stage]


def simulated_study(
    simulated: SimulatedCohort, name: str, fusions: list[Any], **changes: Any
) -> Study:
    """Return a study of another name, with these fusions, over the simulated cohort."""
    given = (
        yaml.safe_load(simulated.study.read_text())
        | {"name": name, "train": QUICK, "grid": {"fusion": fusions}}
        | changes
    )
    path = simulated.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(given))
    return read_study(path)


def concordances(run: RunFolder, cohort: str) -> Mapping[str, float]:
    """Return Harrell's C by strategy, the mean over seeds where there are several."""
    rows = pl.read_parquet(run.results).filter(
        (pl.col("cohort") == cohort) & (pl.col("metric") == "concordance_index")
    )
    return dict(rows.sort("seed", nulls_last=True).select("fusion", "value").rows())


# What a run writes


@pytest.fixture(scope="module")
def study(simulated: SimulatedCohort) -> Study:
    fusions = [*FUSIONS[:3], "contrastive", {"name": "cross_attention", "query": "ct"}]
    return simulated_study(
        simulated, "whole", fusions, evaluate={"metrics": ["concordance_index", "brier_score"]}
    )


@pytest.fixture(scope="module")
def finished(study: Study) -> RunFolder:
    return run_study(study)


MEMBERS = {
    "unimodal(modality=ct)": ("volume_features", None),
    "unimodal(modality=ehr)": (None, "one_hot(values=last)"),
    "linear": ("volume_features", "one_hot(values=last)"),
    "contrastive": ("volume_features", "one_hot(values=last)"),
    "cross_attention": ("volume_features", "one_hot(values=last)"),
}
FOREIGN = ("oracle(ct)", "oracle(ehr)", "oracle(both)")
MEASURES = [
    ("concordance_index", None),
    *(("brier_score", float(days)) for days in (180, 365, 730)),
]


def test_a_run_writes_its_tables_its_report_and_one_folder_per_member(finished):
    names = {path.name for path in finished.path.iterdir()}
    assert TABLES | {"audit.json", "study.json", "report.html"} < names
    folders = [finished.path / member["folder"] for member in read_json(finished.study)["members"]]
    assert names == {folder.name for folder in folders} | {
        path.name for path in finished.path.iterdir() if path.is_file()
    }
    for folder in folders:
        assert sorted(files_of(folder)) == [
            "config.yaml",
            "history.jsonl",
            "model.json",
            "model.safetensors",
            "predictions/held_out.parquet",
            "predictions/site_b.parquet",
            "run.json",
            "unit.json",
        ]


def test_results_have_a_row_per_strategy_cohort_and_measure(finished):
    results = pl.read_parquet(finished.results)
    assert results.columns == [*RESULTS, "between_seeds"]
    expected = {
        (cohort, site, *encoders, fusion, seed, *measure)
        for cohort, site in (("held_out", "site_a"), ("site_b", "site_b"))
        for fusion, encoders, seed in [
            *((name, encoders, 0) for name, encoders in MEMBERS.items()),
            *((name, (None, None), None) for name in FOREIGN),
        ]
        for measure in MEASURES
    }
    assert sorted(results.select(RESULTS[:8]).rows(), key=str) == sorted(expected, key=str)
    ours = results.filter(~pl.col("fusion").is_in(FOREIGN))
    assert ours["value"].is_between(0, 1).all()
    assert (ours["ci_low"] <= ours["value"]).all()
    assert (ours["value"] <= ours["ci_high"]).all()
    assert ours["standard_error"].null_count() == 0
    theirs = results.filter(pl.col("fusion").is_in(FOREIGN) & (pl.col("metric") == "brier_score"))
    assert (
        theirs["value"].null_count() == theirs["note"].null_count() + theirs.height
    )  # no survival curves: null, and it says why


def test_results_are_those_of_the_predictions_beside_them(finished):
    results = pl.read_parquet(finished.results).filter(pl.col("metric") == "concordance_index")
    for member in read_json(finished.study)["members"]:
        for cohort in ("held_out", "site_b"):
            predictions = read_predictions(
                MemberFolder(finished.path / member["folder"]).predictions(cohort)
            )
            expected = concordance_index(
                predictions.target.time, predictions.target.event, predictions.risk
            )
            row = results.row(
                by_predicate=(pl.col("fusion") == member["fusion"]) & (pl.col("cohort") == cohort),
                named=True,
            )
            assert row["value"] == pytest.approx(expected.estimate)
            assert row["standard_error"] == pytest.approx(expected.standard_error)
            assert (row["n"], row["n_events"]) == (
                predictions.table.height,
                int(predictions.target.observed.sum()),
            )


def test_the_oracles_of_the_simulation_are_judged_as_the_simulation_judged_them(
    finished, simulated
):
    truth = {
        (f"oracle({row['modalities']})", {"site_a": "held_out"}.get(row["site"], row["site"])): row[
            "concordance_index"
        ]
        for row in read_json(simulated.summary)["oracle_concordance"]
        if row["split"] in ("held_out", None) and (row["site"], row["split"]) != ("site_a", None)
    }
    for cohort in ("held_out", "site_b"):
        for name in FOREIGN:
            assert concordances(finished, cohort)[name] == pytest.approx(truth[name, cohort])


def test_contrasts_compare_every_fusion_with_the_unimodal_model_that_tuning_prefers(finished):
    contrasts = pl.read_parquet(finished.contrasts)
    assert contrasts.columns == CONTRASTS
    tuning = {
        one["fusion"]: one["tuning_concordance"] for one in read_json(finished.study)["members"]
    }
    better = max(("unimodal(modality=ct)", "unimodal(modality=ehr)"), key=lambda name: tuning[name])
    family = contrasts.filter(
        pl.col("family").is_not_null() & (pl.col("metric") == "concordance_index")
    )
    fusions = [name for name in MEMBERS if not name.startswith("unimodal")]
    assert family.select("cohort", "fusion", "reference").rows() == [
        (cohort, fusion, better) for fusion in fusions for cohort in ("held_out", "site_b")
    ]
    values = {cohort: concordances(finished, cohort) for cohort in ("held_out", "site_b")}
    for row in family.to_dicts():
        of_cohort = values[row["cohort"]]
        assert row["difference"] == pytest.approx(of_cohort[row["fusion"]] - of_cohort[better])
        assert row["p_adjusted"] is None or row["p_adjusted"] >= row["p_value"]


def test_subgroups_are_by_what_was_available(finished):
    table = pl.read_parquet(finished.subgroups)
    assert table.columns == [*RESULTS[:6], "subgroup", "level", *RESULTS[6:]]
    assert table["subgroup"].unique().to_list() == ["available"]
    counts = table.filter(
        (pl.col("fusion") == "linear") & (pl.col("metric") == "concordance_index")
    ).select("cohort", "level", "n")
    for cohort in ("held_out", "site_b"):
        described = next(
            one for one in read_json(finished.study)["cohorts"] if one["label"] == cohort
        )
        assert (
            dict(counts.filter(pl.col("cohort") == cohort).select("level", "n").rows())
            == described["available"]
        )


def test_study_and_audit_tell_what_was_run(finished, study):
    told = read_json(finished.study)
    assert (told["name"], told["task"]["event"], told["cross_validation"]) == (
        "whole",
        "death",
        None,
    )
    assert told["train"]["max_epochs"] == QUICK["max_epochs"]
    assert {
        one["fusion"]: (one["ct_encoder"], one["ehr_encoder"]) for one in told["members"]
    } == MEMBERS
    assert {one["status"] for one in told["members"]} == {"done"}
    assert told["foreign"] == [{"name": name, "oracle": True} for name in FOREIGN]
    assert told["quarantine"] == []
    assert read_json(finished.audit)["passed"] is True
    member = finished.member(told["members"][0]["folder"])
    assert read_json(member.run)["given"] == study.given


def test_no_identifier_leaves_in_tables_or_report(finished, simulated):
    people = pl.concat(
        [
            pl.read_parquet(path).select("sample_id", "subject_id")
            for path in (simulated.development, simulated.external)
        ]
    )
    written = finished.report.read_text() + finished.study.read_text() + finished.audit.read_text()
    for name in TABLES:
        table = pl.read_parquet(finished.path / name)
        written += table.with_columns(
            cs.float().round(4)
        ).write_csv()  # seven digits in a row may be anybody's
    assert all(str(name) not in written for row in people.rows() for name in row)


# What is done again


def test_a_second_run_does_nothing_and_says_so_at_once(finished, study):
    before, stages = files_of(finished.path), Stages()
    stores = files_of(study.embeddings_root)
    started = time.monotonic()
    run_study(study, progress=stages)
    assert time.monotonic() - started < 5
    assert files_of(finished.path) == before
    assert {
        name: state
        for name, state in files_of(study.embeddings_root).items()
        if name != "digests.json"
    } == {name: state for name, state in stores.items() if name != "digests.json"}
    assert stages.of("fits") == [(5, 5)]
    assert stages.of("tables") == []


def test_tables_that_are_gone_are_written_again_from_the_fits(finished, study):
    before, results = files_of(finished.path), pl.read_parquet(finished.results)
    for path in (finished.results, finished.report):
        path.unlink()
    run_study(study)
    assert_frame_equal(pl.read_parquet(finished.results), results)
    assert units_of(files_of(finished.path)) == units_of(before)


@pytest.mark.parametrize("last", ["write_tables", "refresh_pictures", "write_report"])
def test_a_run_that_ends_before_its_report_vouches_for_nothing(tables, monkeypatch, last):
    run = run_study(small_study(tables))
    results, report = pl.read_parquet(run.results), run.report.read_text()
    done = getattr(run_module, last)

    def end(*given: Any) -> None:
        done(*given)
        raise RuntimeError("the machine restarts")

    with monkeypatch.context() as patched:
        patched.setattr(run_module, last, end)
        with pytest.raises(RuntimeError):
            run_study(small_study(tables, evaluate={"metrics": ["concordance_index_ipcw"]}))
    run_study(small_study(tables))
    assert_frame_equal(pl.read_parquet(run.results), results)
    assert read_json(run.study)["fingerprint"] in report


def units_of(files: Mapping[str, tuple[int, int]]) -> Mapping[str, tuple[int, int]]:
    return {
        name: state
        for name, state in files.items()
        if name.endswith(("unit.json", "model.safetensors"))
    }


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def test_another_learning_rate_fits_every_member_anew(tables):
    run = run_study(small_study(tables))
    before, results = units_of(files_of(run.path)), pl.read_parquet(run.results)
    stages = Stages()
    run_study(small_study(tables, train={**study_text()["train"], "lr": 0.03}), progress=stages)
    after = units_of(files_of(run.path))
    assert stages.of("fits") == [(done, 4) for done in range(5)]
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    assert not pl.read_parquet(run.results).equals(results)
    assert read_json(run.study)["train"]["lr"] == 0.03


def test_another_member_is_fitted_alone(tables):
    run = run_study(small_study(tables))
    before, stages = units_of(files_of(run.path)), Stages()
    run_study(small_study(tables, grid={"fusion": [*FUSIONS, "concat"]}), progress=stages)
    after = units_of(files_of(run.path))
    assert stages.of("fits") == [(4, 5), (5, 5)]
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2
    assert "concat" in concordances(run, "held_out")


def test_other_records_are_embedded_anew_and_leave_models_of_scans_alone(tables):
    run = run_study(small_study(tables))
    before = units_of(files_of(run.path))
    alter(tables / "ehr.parquet", lambda table: table.with_columns(pl.col("e0") * 2 + pl.col("e1")))
    run_study(small_study(tables))
    after = units_of(files_of(run.path))
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {name for name in before if name.startswith("unimodal-modality=ct")}


def test_who_has_a_record_is_told_by_models_of_scans_too(tables):
    run = run_study(small_study(tables))
    folder = run.member("unimodal-modality=ct__scan__cox__seed0")
    assert "none" in read_predictions(folder.predictions("west")).table["available"]
    everyone = pl.concat(
        [
            pl.read_parquet(tables / f"{name}.parquet")["sample_id"]
            for name in ("development", "external")
        ]
    )
    pl.DataFrame(
        {"sample_id": everyone, "e0": np.arange(len(everyone)) / 10, "e1": 1.0}
    ).write_parquet(tables / "ehr.parquet")
    run_study(small_study(tables))
    assert "none" not in read_predictions(folder.predictions("west")).table["available"]
    levels = pl.read_parquet(run.subgroups).filter(
        (pl.col("subgroup") == "available") & (pl.col("cohort") == "west")
    )
    assert set(levels["level"]) == {"both", "ehr"}


def test_a_further_column_of_the_cohort_is_told_without_a_fit(tables):
    run = run_study(small_study(tables))
    before = units_of(files_of(run.path))
    alter(tables / "external.parquet", lambda table: table.with_columns(stage=pl.lit("II")))
    run_study(small_study(tables))
    assert units_of(files_of(run.path)) == before
    assert (
        next(one for one in read_json(run.study)["cohorts"] if one["label"] == "west")["columns"][
            "stage"
        ]
        == "II: 40"
    )


def test_what_killed_runs_left_is_swept_away(tables):
    study = small_study(tables)
    left = study.run_folder.path / ".late__scan.abc.tmp" / "new"
    left.mkdir(parents=True)
    (left / "model.safetensors").touch()
    (study.run_folder.path / ".results.parquet.abc.tmp").touch()
    run = run_study(study)
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


def test_two_workers_give_what_one_gives(tables):
    one, two = (
        run_study(small_study(tables, name=f"workers{workers}"), engine=LocalEngine(workers))
        for workers in (1, 2)
    )
    for name in ("results", "contrasts", "subgroups"):
        assert_frame_equal(
            pl.read_parquet(getattr(one, name)), pl.read_parquet(getattr(two, name)), abs_tol=1e-6
        )
    for member in read_json(one.study)["members"]:
        first, second = (
            read_predictions(run.member(member["folder"]).predictions("west")) for run in (one, two)
        )
        assert_frame_equal(first.table, second.table, abs_tol=1e-6)


# Cross-validation


@pytest.mark.parametrize("given", ["drawn", "by file"])
def test_under_cross_validation_a_value_is_the_mean_over_folds_then_over_repeats(tables, given):
    options: dict[str, Any] = {"folds": 3, "repeats": 2, "group": "household"}
    if given == "by file":
        rows = (
            pl.read_parquet(tables / "development.parquet")
            .filter(pl.col("split") != "held_out")
            .select("sample_id", "household")
        )
        folds = [
            rows.select(
                "sample_id", repeat=pl.lit(repeat), fold=(pl.col("household") + repeat) // 2 % 3
            )
            for repeat in (0, 1)
        ]
        pl.concat(folds).write_csv(tables / "folds.csv")
        options = {"assignment": "folds.csv", "group": "household"}
    run = run_study(
        small_study(tables, cross_validation=options, grid={"fusion": [*FUSIONS[:2], "concat"]})
    )
    for member in read_json(run.study)["members"]:
        predictions = read_predictions(
            run.member(member["folder"]).predictions("development")
        ).table
        assert predictions.height == 160
        assert predictions.select("sample_id", "repeat").is_unique().all()
        means = []
        for repeat in (0, 1):
            parts = predictions.filter(pl.col("repeat") == repeat).partition_by("fold")
            assert len(parts) == 3
            means.append(np.mean([concordance_of(part) for part in parts]))
        assert concordances(run, "development")[member["fusion"]] == pytest.approx(np.mean(means))
        outside = read_predictions(run.member(member["folder"]).predictions("west")).table
        assert outside.height == outside["fold"].null_count() == 40
        assert concordances(run, "west")[member["fusion"]] == pytest.approx(concordance_of(outside))
    results = pl.read_parquet(run.results)
    assert set(results["cohort"]) == {"development", "west"}
    assert set(results.filter(pl.col("cohort") == "development")["n"]) == {80}
    family = pl.read_parquet(run.contrasts).filter(pl.col("family").is_not_null())
    assert family.filter(pl.col("cohort") == "development")["reference"].unique().to_list() == [
        "unimodal(chosen per fold)"
    ]
    assert read_json(run.audit)["passed"]


def concordance_of(table: pl.DataFrame) -> float:
    return concordance_index(
        table["time_days"].to_numpy(),
        table["event"].cast(pl.Int64).to_numpy(),
        table["risk"].to_numpy(),
    ).estimate


def test_a_fold_that_is_lost_is_fitted_alone(tables):
    study = small_study(tables, cross_validation={"folds": 3}, grid={"fusion": ["concat"]})
    run = run_study(study)
    results, before = pl.read_parquet(run.results), units_of(files_of(run.path))
    lost = next(run.path.glob("concat*/folds/r0-f1"))
    shutil.rmtree(lost)
    run.results.unlink()
    run_study(study)
    after = units_of(files_of(run.path))
    assert {name for name in before if before[name] != after[name]} == {
        name for name in before if "r0-f1" in name
    }
    assert_frame_equal(pl.read_parquet(run.results), results)


# Other shapes of a study


def test_seeds_have_a_row_each_and_one_of_their_mean(tables):
    run = run_study(
        small_study(tables, grid={"fusion": [*FUSIONS[:2], "concat"], "seed": [0, 1, 2]})
    )
    rows = pl.read_parquet(run.results).filter(
        (pl.col("fusion") == "concat") & (pl.col("cohort") == "west")
    )
    rows = rows.filter(pl.col("metric") == "concordance_index")
    assert rows["seed"].to_list() == [0, 1, 2, None]
    tables_of_seeds = [
        read_predictions(
            run.member(f"concat__scan__record__cox__seed{seed}").predictions("west")
        ).table
        for seed in range(3)
    ]
    assert len({tuple(table["risk"]) for table in tables_of_seeds}) == 3
    mean = tables_of_seeds[0].with_columns(
        risk=pl.Series(np.mean([table["risk"].to_numpy() for table in tables_of_seeds], axis=0))
    )
    assert rows["value"][3] == pytest.approx(concordance_of(mean))
    assert set(pl.read_parquet(run.contrasts)["fusion"]) == {"concat"}


def test_a_member_that_cannot_attend_is_left_out_with_its_reason_and_the_study_goes_on(tables):
    run = run_study(
        small_study(
            tables, grid={"fusion": [*FUSIONS, {"name": "cross_attention", "query": "ehr"}]}
        )
    )
    members = {one["fusion"]: one for one in read_json(run.study)["members"]}
    left_out = members["cross_attention(query=ehr)"]
    assert (left_out["status"], left_out["tuning_concordance"]) == ("not_applicable", None)
    assert "attention over ct needs more than one token" in left_out["reason"]
    assert not (run.path / left_out["folder"]).exists()
    assert "attention over ct needs more than one token" in run.report.read_text()
    assert len(concordances(run, "held_out")) == 4


def test_a_study_of_one_modality_works(tables):
    encoders = {"ct": study_text()["encoders"]["ct"]}
    run = run_study(
        small_study(
            tables,
            encoders=encoders,
            grid={
                "fusion": [
                    {"name": "unimodal", "modality": "ct"},
                    {"name": "linear", "modality": "ct"},
                ]
            },
        )
    )
    results = pl.read_parquet(run.results)
    assert results["ehr_encoder"].null_count() == results.height
    assert set(results["fusion"]) == {"unimodal(modality=ct)", "linear(modality=ct)"}
    assert pl.read_parquet(run.contrasts).is_empty()
    assert run.report.is_file()
    predictions = read_predictions(
        run.member("linear-modality=ct__scan__cox__seed0").predictions("west")
    ).table
    assert set(predictions["available"]) == {"ct", "none"}


def test_a_study_without_external_cohort_works(tables):
    run = run_study(small_study(tables, cohorts={"development": {"table": "development.parquet"}}))
    assert pl.read_parquet(run.results)["cohort"].unique().to_list() == ["held_out"]
    sites = pl.read_parquet(run.results)["site"]
    assert sites.null_count() == len(sites)  # two sites in one cohort
    assert set(pl.read_parquet(run.subgroups)["subgroup"]) == {"available", "site"}


def test_what_the_grid_varies_sets_members_apart(tables):
    run = run_study(small_study(tables, grid={"fusion": ["concat"], "train.lr": [0.001, 0.01]}))
    assert set(concordances(run, "held_out")) == {"concat[lr=0.001]", "concat[lr=0.01]"}


def test_predictions_of_others_stand_beside_ours(tables):
    rows = pl.read_parquet(tables / "external.parquet")
    rows.select("sample_id", risk=-pl.col("time_days")).write_parquet(tables / "perfect.parquet")
    foreign = [{"name": "perfect", "table": "perfect.parquet"}]
    run = run_study(small_study(tables, foreign=foreign))
    assert concordances(run, "west")["perfect"] == 1.0
    assert "perfect" not in concordances(run, "held_out")
    assert "perfect" in run.report.read_text()
    before = units_of(files_of(run.path))
    rows.select("sample_id", risk=pl.col("time_days")).write_parquet(tables / "perfect.parquet")
    run_study(small_study(tables, foreign=foreign))
    assert concordances(run, "west")["perfect"] == 0.0
    assert units_of(files_of(run.path)) == before


# Scans that cannot be read


@pytest.fixture
def damaged(simulated: SimulatedCohort, tmp_path: Path) -> SimulatedCohort:
    """The simulated cohort, its files linked to save room, with four scans of the development
    site damaged.
    """
    folder = tmp_path / "demo"
    shutil.copytree(
        simulated.folder,
        folder,
        copy_function=os.link,
        ignore=shutil.ignore_patterns("runs", "embeddings"),
    )
    cohort = SimulatedCohort(folder)
    paths = [
        folder / "development" / path
        for path in pl.read_parquet(cohort.development)["ct_path"].drop_nulls()[:4]
    ]
    for path in paths:
        path.unlink()
    paths[0].write_bytes(b"not a scan")
    paths[1].touch()
    paths[2].write_bytes(
        (
            simulated.folder / "development" / paths[2].relative_to(folder / "development")
        ).read_bytes()[:2000]
    )
    return cohort


def test_unreadable_scans_are_quarantined_and_the_study_goes_on_without_them(damaged):
    run = run_study(simulated_study(damaged, "goes_on", list(FUSIONS[:2])))
    (told,) = read_json(run.study)["quarantine"]
    assert (told["cohort"], told["modality"], told["encoder"], told["n"]) == (
        "cohort",
        "ct",
        "volume_features",
        4,
    )
    assert sum(told["reasons"].values()) == 4
    assert told["reasons"]["not a file"] == 1
    store = next((damaged.folder / "embeddings" / "cohort").glob("volume_features-*"))
    table = pl.read_parquet(damaged.development)
    affected = table.filter(pl.col("ct_path").is_not_null())["sample_id"][:4]
    assert set(pl.read_parquet(store / "quarantine.parquet")["sample_id"]) == set(affected)
    index = dict(pl.read_parquet(store / "index.parquet").select("sample_id", "n_tokens").rows())
    assert [index[sample_id] for sample_id in affected] == [0, 0, 0, 0]
    assert all(
        str(sample_id) not in run.report.read_text() + run.study.read_text()
        for sample_id in affected
    )
    for reason in told["reasons"]:
        assert reason in run.report.read_text()


def test_more_unreadable_scans_than_allowed_are_an_error(damaged):
    study = simulated_study(damaged, "stops", list(FUSIONS[:2]), max_quarantined=0.02)
    with pytest.raises(
        StoreError,
        match=r"cohort: volume_features: 4 of \d+ samples cannot be encoded, more than "
        r"max_quarantined = 0.02",
    ):
        run_study(study)
    result = CliRunner().invoke(app, ["run", str(damaged.folder / "stops.yaml"), "--workers", "1"])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert "1 x not a file" in line
    assert "mend their files, or raise max_quarantined" in line
    assert not study.run_folder.path.exists()


def test_the_command_line_does_the_same(tables):
    (tables / "study.yaml").write_text(yaml.safe_dump(study_text()))
    result = CliRunner().invoke(app, ["run", str(tables / "study.yaml"), "--workers", "1"])
    assert result.exit_code == 0, result.stderr
    for name in ("unimodal(modality=ct)", "linear", "late", "held_out", "west"):
        assert name in result.stdout
    assert f"report: {tables / 'runs' / 'small' / 'report.html'}" in result.stdout
    again = CliRunner().invoke(app, ["run", str(tables / "study.yaml"), "--workers", "1"])
    assert again.stdout == result.stdout
    assert "fits: 4/4" in again.stderr
