"""Measure the plain yardstick for NAFLD.

Ridge Cox models by scikit-survival on the people and folds of the studies.

Usage, after `concordant run` on `study_death.yaml` and `study_mace.yaml`, whose members are printed
beside:
    python examples/nafld/baseline.py --data ../shared/data --prepared work/nafld

Two models: age and sex, and these with hand-made features of the record up to and on day 0: per
measurement the last value and whether there is one, whether each diagnosis was ever made, weight,
height and body mass index. Gaps are filled with the median of the training part, columns
standardised there. Outcomes and features are made from the source's own tables; only the folds are
read from the runs. With --strict the record ends before day 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

PENALTY = 30.0
MACE = ("MI", "stroke", "heart failure", "cardiac arrest")
TASKS = ("death", "mace")
KNOWN_AT_INDEX = ("age", "male", "weight", "height", "bmi")


@dataclass(frozen=True, slots=True)
class Source:
    """The three tables as given."""

    people: pl.DataFrame
    tests: pl.DataFrame
    diagnoses: pl.DataFrame


def read_source(data: Path) -> Source:
    """Read the source; events without a day stay out."""
    tables = [
        pl.read_csv(
            data / f"nafld{number}.csv.gz", infer_schema_length=None, null_values=["NA", ""]
        )
        for number in (1, 2, 3)
    ]
    return Source(tables[0].sort("id"), tables[1].drop_nulls("days"), tables[2].drop_nulls("days"))


def outcomes(source: Source, task: str) -> pl.DataFrame:
    """Return `id`, `time_days` and `event` of who takes part.

    The first MACE or the death after day 0, else the last contact.
    """
    people = source.people.select("id", "futime", "status")
    if task == "death":
        return people.select("id", time_days="futime", event=pl.col("status") == 1)
    mace = source.diagnoses.filter(pl.col("event").is_in(MACE))
    free = people.join(mace.filter(pl.col("days") <= 0), on="id", how="anti")
    first = mace.filter(pl.col("days") > 0).group_by("id").agg(first=pl.col("days").min())
    followed = free.join(first, on="id", how="left", maintain_order="left")
    return followed.select(
        "id", time_days=pl.coalesce("first", "futime"), event=pl.col("first").is_not_null()
    )


def features(source: Source, ids: pl.Series, last_day: int) -> pl.DataFrame:
    """Return the hand-made features of each person, null where there is no value."""
    table = pl.DataFrame({"id": ids}).join(
        source.people.select("id", *KNOWN_AT_INDEX), on="id", how="left", maintain_order="left"
    )
    tests = (
        source.tests.filter(pl.col("days") <= last_day)
        .sort("days", maintain_order=True)
        .group_by("id", "test")
        .agg(pl.last("value"))
    )
    tests = tests.pivot("test", index="id", values="value").select(
        "id", pl.exclude("id").name.prefix("last ")
    )
    diagnoses = (
        source.diagnoses.filter(pl.col("days") <= last_day)
        .select("id", "event", had=pl.lit(1.0))
        .unique()
    )
    table = table.join(tests, on="id", how="left", maintain_order="left")
    made = diagnoses.pivot("event", index="id", values="had")
    table = table.join(made, on="id", how="left", maintain_order="left").with_columns(
        pl.col(made.columns[1:]).fill_null(0.0)
    )
    gaps = [
        pl.col(name).is_null().cast(pl.Float64).alias(f"no {name}")
        for name in table.columns
        if table[name].null_count()
    ]
    return table.with_columns(gaps).drop("id")


def standardised(columns: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Fill gaps with the median and standardise, both of the training rows."""
    filled = np.where(np.isnan(columns), np.nanmedian(columns[train], axis=0), columns)
    spread = filled[train].std(axis=0)
    return (filled - filled[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def fold_scores(columns: np.ndarray, outcome: np.ndarray, folds: np.ndarray) -> Iterator[float]:
    """Yield the C of each fold, after fitting on the others."""
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        scaled = standardised(columns, train)
        model = CoxPHSurvivalAnalysis(alpha=PENALTY, ties="efron").fit(
            scaled[train], outcome[train]
        )
        held_out = outcome[test]
        yield concordance_index_censored(
            held_out["event"], held_out["time"], model.predict(scaled[test])
        )[0]


def run_folds(run: Path) -> pl.DataFrame:
    """Return `id` and `fold`, as the study drew them."""
    predictions = sorted(run.glob("*/predictions/development.parquet"))
    if not predictions:
        raise SystemExit(f"{run}: no predictions; run `concordant run` on the study first")
    return pl.read_parquet(predictions[0]).select("fold", id="subject_id")


def measure(source: Source, task: str, prepared: Path, last_day: int) -> None:
    """Print the two models, and every member of the study."""
    run = prepared / "runs" / f"nafld_{task}"
    people = outcomes(source, task)
    joined = people.join(run_folds(run), on="id", how="left", maintain_order="left")
    if joined["fold"].null_count() or joined.height != people.height:
        raise SystemExit(
            f"{run}: other people than the source gives for {task}; prepare the data and make the "
            "cohort again"
        )
    outcome = np.array(
        list(zip(joined["event"], joined["time_days"], strict=True)),
        dtype=[("event", bool), ("time", float)],
    )
    print(
        f"\n{task}: {len(outcome)} people, {outcome['event'].sum()} events, record up to day "
        f"{last_day}"
    )
    table, folds = features(source, people["id"], last_day), joined["fold"].to_numpy()
    for name, columns in (
        ("age and sex", table.select("age", "male")),
        ("age, sex and record", table),
    ):
        scores = list(fold_scores(columns.to_numpy().astype(float), outcome, folds))
        print(f"{'ridge Cox, ' + name:44}{np.mean(scores):.3f}")
    show_run(run)


def show_run(run: Path) -> None:
    """Print the members of a study with their 95 % intervals."""
    rows = pl.read_parquet(run / "results.parquet").filter(pl.col("metric") == "concordance_index")
    for row in rows.iter_rows(named=True):
        print(
            f"{row['fusion'] + ', ' + row['ehr_encoder']:44}{row['value']:.3f} "
            f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        )


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description="Ridge Cox baselines for NAFLD by scikit-survival."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds nafld/"
    )
    parser.add_argument(
        "--prepared", type=Path, required=True, help="what prepare.py wrote, with the runs in it"
    )
    parser.add_argument("--strict", action="store_true", help="the record ends before day 0")
    given = parser.parse_args()
    source = read_source(given.data / "nafld")
    for task in TASKS:
        measure(source, task, given.prepared, -1 if given.strict else 0)


if __name__ == "__main__":
    main()
