"""Measure the plain yardstick for KiTS23.

Ridge Cox models by scikit-survival on the patients and folds of `study.yaml`.

Usage:
    python examples/kits23/baseline.py --data ../shared/data

Four models: the record, the scan (19 shape features of the expert mask, `mask_features.csv`), both
concatenated, and late fusion (the sum of the two log-hazards, each standardised on the training
part). Two tables, one per way of setting the ridge penalty: a fixed one, and the one that does best
in a cross-validation within the training part. Nothing here is read through concordant.

How the record is encoded: one column per comorbidity flag and for male; one per level of smoking,
chewing tobacco and alcohol; age, body mass index, pack-years, age at quitting and the last
pre-operative eGFR as numbers, each of the last three with an indicator of being missing. Numbers
are imputed by the median of the training part; every column is standardised there (population
standard deviation; a column constant there becomes 0). Columns of the scan are standardised as they
are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.model_selection import StratifiedKFold
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored

FIXED_PENALTY = 30.0
PENALTIES = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
INNER_FOLDS = 5
MODELS = ("record", "CT mask", "concatenated", "late")
NUMBERS = ("age_at_nephrectomy", "bmi", "pack_years", "age_when_quit_smoking", "egfr")
CATEGORIES = ("smoking_history", "chewing_tobacco_use", "alcohol_use")
GRID_COLUMNS = ("case_id", "nz", "ny", "nx", "sp0", "sp1", "sp2", "axcodes")


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients with follow-up, in one order.

    Attributes:
        record: Encoded record, NaN where a number is missing.
        scan: Shape features of the mask.
        outcome: Structured array (event, time in days), as scikit-survival takes it.
        folds: Per repeat the fold that each patient is tested in.
    """

    record: np.ndarray
    scan: np.ndarray
    outcome: np.ndarray
    folds: np.ndarray


def read_patients(data: Path) -> Patients:
    """Read the patients with follow-up."""
    survival = pl.read_csv(data / "survival.csv").filter(pl.col("time_days") > 0).sort("case_id")
    cases = {
        case["case_id"]: case
        for case in json.loads((data / "kits23.json").read_text(encoding="utf-8"))
    }
    scan = survival.select("case_id").join(
        pl.read_csv(data / "mask_features.csv"), on="case_id", how="left", maintain_order="left"
    )
    folds = (
        pl.read_csv(data / "folds.csv")
        .pivot("repeat", index="case_id", values="fold")
        .sort("case_id")
    )
    outcome = np.array(
        list(zip(survival["event"] == 1, survival["time_days"], strict=True)),
        dtype=[("event", bool), ("time", float)],
    )
    return Patients(
        record=encode([cases[case] for case in survival["case_id"]]),
        scan=scan.drop(GRID_COLUMNS).to_numpy().astype(float),
        outcome=outcome,
        folds=folds.drop("case_id").to_numpy().T,
    )


def encode(cases: Sequence[dict[str, Any]]) -> np.ndarray:
    """Encode records as this file's docstring says, (patient, column)."""
    table = pl.DataFrame(
        [{**case, "egfr": (case["last_preop_egfr"] or {}).get("value")} for case in cases],
        infer_schema_length=None,
    )
    columns = [(table["gender"] == "male").cast(pl.Float64)]
    columns += [
        pl.Series([float(case["comorbidities"][name]) for case in cases])
        for name in cases[0]["comorbidities"]
    ]
    for field in CATEGORIES:
        columns += [
            (table[field] == level).fill_null(False).cast(pl.Float64)
            for level in sorted(table[field].drop_nulls().unique())
        ]
    for field in NUMBERS:
        columns.append(table[field].cast(pl.Float64))
        if table[field].null_count():
            columns.append(table[field].is_null().cast(pl.Float64))
    return np.column_stack([column.fill_null(np.nan).to_numpy() for column in columns])


def standardised(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Impute by the median and standardise, both of the training rows."""
    filled = np.where(np.isnan(features), np.nanmedian(features[train], axis=0), features)
    spread = filled[train].std(axis=0)
    return (filled - filled[train].mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def log_hazard(
    features: np.ndarray, outcome: np.ndarray, train: np.ndarray, penalty: float
) -> np.ndarray:
    """Fit a ridge Cox model on the training rows; return every row's log-hazard."""
    scaled = standardised(features, train)
    return (
        CoxPHSurvivalAnalysis(alpha=penalty, ties="efron")
        .fit(scaled[train], outcome[train])
        .predict(scaled)
    )


def concordance(outcome: np.ndarray, risk: np.ndarray, rows: np.ndarray) -> float:
    """Return Harrell's C of the rows."""
    return float(
        concordance_index_censored(outcome["event"][rows], outcome["time"][rows], risk[rows])[0]
    )


def chosen_penalty(
    features: np.ndarray, outcome: np.ndarray, train: np.ndarray, seed: int
) -> float:
    """Return the penalty with the best mean C in a cross-validation within the training rows."""
    splitter = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=seed)
    parts = [
        (train[fit], train[test]) for fit, test in splitter.split(train, outcome["event"][train])
    ]
    means = [
        np.mean(
            [
                concordance(outcome, log_hazard(features, outcome, fit, penalty), test)
                for fit, test in parts
            ]
        )
        for penalty in PENALTIES
    ]
    return PENALTIES[int(np.argmax(means))]


def fold_scores(patients: Patients, repeat: int, fold: int, fixed: float | None) -> list[float]:
    """Return the C of the four models in one fold.

    `fixed` None = the penalty is chosen within the training part.
    """
    test = np.flatnonzero(patients.folds[repeat] == fold)
    train = np.flatnonzero(patients.folds[repeat] != fold)
    risks = []
    for features in (patients.record, patients.scan, np.hstack([patients.record, patients.scan])):
        penalty = (
            chosen_penalty(features, patients.outcome, train, seed=repeat)
            if fixed is None
            else fixed
        )
        risks.append(log_hazard(features, patients.outcome, train, penalty))
    late = sum((risk - risk[train].mean()) / risk[train].std() for risk in risks[:2])
    return [concordance(patients.outcome, risk, test) for risk in (*risks, late)]


def measure(patients: Patients, fixed: float | None) -> np.ndarray:
    """Return the C of the four models in every fold, (fold of a repeat, model)."""
    places = [
        (repeat, fold)
        for repeat in range(len(patients.folds))
        for fold in np.unique(patients.folds[repeat])
    ]
    return np.array([fold_scores(patients, repeat, int(fold), fixed) for repeat, fold in places])


def show(title: str, scores: np.ndarray) -> None:
    """Print one table."""
    print(f"\n{title}\n{'model':14}{'mean C':>8}{'sd over folds':>15}")
    for name, column in zip(MODELS, scores.T, strict=True):
        print(f"{name:14}{column.mean():8.3f}{column.std(ddof=1):15.3f}")


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(
        description="Ridge Cox baselines for KiTS23 by scikit-survival."
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder that holds kits23/"
    )
    parser.add_argument(
        "--fixed-only",
        action="store_true",
        help="leave out the table with the chosen penalty, which takes a minute",
    )
    given = parser.parse_args()
    patients = read_patients(given.data / "kits23")
    print(
        f"{len(patients.outcome)} patients, {patients.outcome['event'].sum()} deaths, "
        f"{len(patients.folds)} repeats of 5 folds"
    )
    show(f"ridge penalty {FIXED_PENALTY:g}", measure(patients, FIXED_PENALTY))
    if not given.fixed_only:
        show("ridge penalty chosen within the training part", measure(patients, None))


if __name__ == "__main__":
    main()
