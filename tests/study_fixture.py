"""A study of tables alone, fitted in seconds.

Two cohorts, and feature files that tell part of the hazard. For tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from concordant.config import Study, parse_study

FUSIONS = (
    {"name": "unimodal", "modality": "ct"},
    {"name": "unimodal", "modality": "ehr"},
    "linear",
    "late",
)
SPLITS = ["train"] * 6 + ["tuning"] * 2 + ["held_out"] * 2


def write_tables(
    folder: Path, *, n_development: int = 100, n_external: int = 40, seed: int = 0
) -> Path:
    """Write development.parquet, external.parquet, ct.parquet, ct_tokens.parquet (three tokens
    each) and ehr.parquet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    total = n_development + n_external
    hidden = rng.normal(size=(total, 4))
    event_time, censored = (
        rng.exponential(400 * np.exp(-hidden[:, 0] - hidden[:, 2])),
        rng.exponential(900, total),
    )
    cohort = pl.DataFrame(
        {
            "sample_id": [
                f"a{row:03d}" if row < n_development else f"b{row:03d}" for row in range(total)
            ],
            "subject_id": np.arange(total) + 1000,
            "prediction_time": [datetime(2020, 1, 1)] * total,
            "time_days": np.minimum(event_time, censored) + 1,
            "event": (event_time <= censored).astype(int),
            "site": ["north" if row % 3 else "south" for row in range(n_development)]
            + ["west"] * n_external,
            "household": np.arange(total) // 2,
            "sex": ["female" if row % 2 else "male" for row in range(total)],
        }
    )
    splits = pl.Series("split", [SPLITS[row // 2 % 10] for row in range(n_development)])
    cohort[:n_development].with_columns(splits).write_parquet(folder / "development.parquet")
    cohort[n_development:].write_parquet(folder / "external.parquet")
    _write_features(folder, cohort["sample_id"], hidden, rng)
    return folder


def _write_features(
    folder: Path, sample_ids: pl.Series, hidden: np.ndarray, rng: np.random.Generator
) -> None:
    has_ct, has_ehr = (pl.Series(rng.random(len(sample_ids)) > 0.1) for _ in range(2))
    ct = pl.DataFrame({"sample_id": sample_ids, "c0": hidden[:, 0], "c1": hidden[:, 1]})
    ehr = pl.DataFrame({"sample_id": sample_ids, "e0": hidden[:, 2], "e1": hidden[:, 3]})
    tokens = hidden[:, None, :2] + rng.normal(size=(len(sample_ids), 3, 2)) / 10
    ct.filter(has_ct).write_parquet(folder / "ct.parquet")
    ct.select("sample_id", pl.Series("tokens", tokens.tolist())).filter(has_ct).write_parquet(
        folder / "ct_tokens.parquet"
    )
    ehr.filter(has_ehr).write_parquet(folder / "ehr.parquet")


def study_text(**changes: Any) -> dict[str, Any]:
    """Return the study over these tables as a mapping.

    A change replaces a key, None leaves it out.
    """
    given = {
        "name": "small",
        "task": {"event": "death", "horizons_days": [180, 365]},
        "cohorts": {
            "development": {"table": "development.parquet"},
            "external": [{"name": "west", "table": "external.parquet"}],
        },
        "encoders": {
            "ct": {"name": "features", "path": "ct.parquet", "label": "scan"},
            "ehr": {"name": "features", "path": "ehr.parquet", "label": "record"},
        },
        "train": {"max_epochs": 6, "patience": 3, "width": 4, "device": "cpu"},
        "grid": {"fusion": list(FUSIONS)},
        **changes,
    }
    return {key: value for key, value in given.items() if value is not None}


def small_study(folder: Path, **changes: Any) -> Study:
    """Return the study over the tables of a folder."""
    return parse_study(study_text(**changes), folder=folder)


def alter(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write a table anew, changed."""
    change(pl.read_parquet(path)).write_parquet(path)


def with_value(column: str, row: int, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return the change that puts one value in place of another."""

    def change(table: pl.DataFrame) -> pl.DataFrame:
        values = [value if place == row else old for place, old in enumerate(table[column])]
        return table.with_columns(pl.Series(column, values, strict=False))

    return change


def files_of(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Return inode and modification time of every file below a folder.

    What was not written again has both as before.
    """
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in paths
    }
