"""Measure the plain yardstick for PhysioNet 2012.

Ridge Cox models by scikit-survival, fitted on set a, tested on set b.

Usage, after `concordant run` on the studies, whose members are printed beside (those that were not
run are passed over):
    python examples/physionet2012/baseline.py --data ../shared/data --prepared work/physionet2012

Features: age, sex, height and type of ICU, and of each of the other variables the mean, last, least
and greatest value within 48 hours and the logarithm of 1 + how often it was measured. Gaps are
filled with the median of set a, columns standardised there and cut at 6 standard deviations. The
penalty is the one of `PENALTIES` that does best in a cross-validation within set a.

Everything is made from the source's own tables; nothing is read through concordant. A negative
value is none; who died within two days takes no part; time counts from 48 hours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

PENALTIES = (30.0, 100.0, 300.0, 1000.0)
INNER_FOLDS = 3
HORIZONS = (30, 180, 365)
INDEX_DAYS = 2
CLIP = 6.0
STATIC = ("Age", "Gender", "Height", "ICUType")


@dataclass(frozen=True, slots=True)
class Stays:
    """The stays of a set that are alive at the index, in one order.

    Attributes:
        columns: Features by name, null where there is no value.
        survival: Days from admission to death, null where no death is recorded.
    """

    columns: pl.DataFrame
    survival: pl.Series


def read_stays(data: Path, name: str) -> Stays:
    """Read a set."""
    measured = pl.read_parquet(data / f"set-{name}_long.parquet").filter(pl.col("value") >= 0)
    measured = measured.with_columns(
        pl.col("parameter").cast(pl.String), pl.col("record_id").cast(pl.Int64)
    )
    outcomes = pl.read_csv(data / f"Outcomes-{name}.txt").select(
        record_id="RecordID", survival="Survival"
    )
    alive = outcomes.filter((pl.col("survival") == -1) | (pl.col("survival") > INDEX_DAYS)).sort(
        "record_id"
    )
    columns = alive.select("record_id").join(
        features(measured), on="record_id", how="left", maintain_order="left"
    )
    return Stays(columns.drop("record_id"), alive["survival"].replace({-1: None}))


def features(measured: pl.DataFrame) -> pl.DataFrame:
    """Return the features of each stay."""
    static = measured.filter(pl.col("parameter").is_in(STATIC)).pivot(
        "parameter", index="record_id", values="value"
    )
    static = static.with_columns(
        (pl.col("ICUType") == kind).cast(pl.Float64).alias(f"ICU {kind}") for kind in (1, 2, 3, 4)
    ).drop("ICUType")
    value = pl.col("value").cast(pl.Float64)
    dynamic = (
        measured.filter(~pl.col("parameter").is_in((*STATIC, "RecordID")))
        .sort("record_id", "minute", maintain_order=True)
        .group_by("record_id", "parameter")
        .agg(
            mean=value.mean(),
            last=value.last(),
            least=value.min(),
            greatest=value.max(),
            count=value.len().log1p(),
        )
        .pivot(
            "parameter", index="record_id", values=["mean", "last", "least", "greatest", "count"]
        )
    )
    return static.join(
        dynamic.with_columns(pl.col("^count_.*$").fill_null(0.0)),
        on="record_id",
        how="left",
        maintain_order="left",
    )


def scaled(train: pl.DataFrame, other: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps with the median, standardise and cut, all by the first table.

    A constant column becomes 0.
    """
    names = sorted(set(train.columns) & set(other.columns))
    first, second = (table.select(names).to_numpy().astype(float) for table in (train, other))
    median = np.nanmedian(first, axis=0)
    first, second = (np.where(np.isnan(values), median, values) for values in (first, second))
    mean, spread = first.mean(axis=0), first.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    return np.clip((first - mean) / spread, -CLIP, CLIP), np.clip(
        (second - mean) / spread, -CLIP, CLIP
    )


def outcome_of(survival: pl.Series, horizon: int) -> np.ndarray:
    """Return event and time from the index, censored at the horizon."""
    days = survival.cast(pl.Float64).fill_null(np.inf).to_numpy() - INDEX_DAYS
    return np.array(
        list(zip(days <= horizon, np.minimum(days, horizon), strict=True)),
        dtype=[("event", bool), ("time", float)],
    )


def fitted(values: np.ndarray, outcome: np.ndarray, penalty: float) -> CoxPHSurvivalAnalysis:
    """Fit a ridge Cox model."""
    return CoxPHSurvivalAnalysis(alpha=penalty, ties="breslow").fit(values, outcome)


def concordance(outcome: np.ndarray, risk: np.ndarray) -> float:
    """Return Harrell's C."""
    return float(concordance_index_censored(outcome["event"], outcome["time"], risk)[0])


def chosen_penalty(values: np.ndarray, outcome: np.ndarray) -> float:
    """Return the penalty with the best mean C in a cross-validation."""
    parts = list(
        StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=0).split(values, outcome["event"])
    )
    means = [
        np.mean(
            [
                concordance(
                    outcome[test], fitted(values[fit], outcome[fit], penalty).predict(values[test])
                )
                for fit, test in parts
            ]
        )
        for penalty in PENALTIES
    ]
    return PENALTIES[int(np.argmax(means))]


def show_run(run: Path) -> None:
    """Print the members of a study with their 95 % intervals on set b."""
    if not (run / "results.parquet").is_file():
        print(f"{run}: not run")
        return
    rows = pl.read_parquet(run / "results.parquet").filter(
        (pl.col("metric") == "concordance_index") & (pl.col("cohort") == "set_b")
    )
    rows = rows.filter(pl.col("site").is_null()) if rows["site"].null_count() else rows
    for row in rows.iter_rows(named=True):
        print(
            f"{row['fusion'] + ', ' + row['ehr_encoder']:44}{row['value']:.3f} "
            f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        )


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description="Ridge Cox baselines for PhysioNet 2012 by scikit-survival."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds physionet2012/"
    )
    parser.add_argument(
        "--prepared", type=Path, required=True, help="what prepare.py wrote, with the runs in it"
    )
    parser.add_argument(
        "--penalty",
        type=float,
        help="take this penalty instead of choosing one, which takes minutes",
    )
    given = parser.parse_args()
    train, test = (read_stays(given.data / "physionet2012", name) for name in ("a", "b"))
    values, others = scaled(train.columns, test.columns)
    for horizon in HORIZONS:
        outcome, truth = outcome_of(train.survival, horizon), outcome_of(test.survival, horizon)
        penalty = given.penalty or chosen_penalty(values, outcome)
        risk = fitted(values, outcome, penalty).predict(others)
        counts = (
            f"{len(outcome)} stays with {outcome['event'].sum()} deaths to {len(truth)} with "
            f"{truth['event'].sum()}"
        )
        print(f"\n{horizon} days: from {counts}, {values.shape[1]} features")
        print(f"{f'ridge Cox, penalty {penalty:g}':44}{concordance(truth, risk):.3f}")
        show_run(given.prepared / "runs" / f"physionet2012_{horizon}")


if __name__ == "__main__":
    main()
