"""A cohort of many tiny scans, some of them damaged in every way that is known, and a study that
embeds them. For tests.
"""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import polars as pl
import yaml

DAMAGES = ("truncated", "checksum", "nan", "constant", "empty")


def write_scans(folder: Path, n: int, *, damaged: float, seed: int = 0) -> list[str]:
    """Write `ct/NNNN.nii.gz`, `cohort.parquet` and `study.yaml`.

    Return the sample ids of the damaged scans.
    """
    rng = np.random.default_rng(seed)
    (folder / "ct").mkdir(parents=True)
    bad = set(rng.choice(n, int(damaged * n), replace=False).tolist())
    for row in range(n):
        _write_scan(
            folder / "ct" / f"{row:04d}.nii.gz",
            DAMAGES[row % len(DAMAGES)] if row in bad else None,
            rng,
        )
    pl.DataFrame(
        {
            "sample_id": [f"s{row:04d}" for row in range(n)],
            "subject_id": np.arange(n),
            "prediction_time": [datetime(2020, 1, 1)] * n,
            "time_days": rng.exponential(100, n) + 1,
            "event": rng.integers(0, 2, n),
            "split": [("train", "train", "tuning", "held_out")[row % 4] for row in range(n)],
            "ct_path": [f"ct/{row:04d}.nii.gz" for row in range(n)],
        }
    ).write_parquet(folder / "cohort.parquet")
    study = {
        "name": "scans",
        "task": {"event": "death"},
        "cohorts": {"development": {"table": "cohort.parquet"}},
        "encoders": {"ct": {"name": "volume_features", "grid": 2}},
        "fusion": {"name": "unimodal", "modality": "ct"},
        "max_quarantined": 2 * damaged,
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return [f"s{row:04d}" for row in sorted(bad)]


def _write_scan(path: Path, damage: str | None, rng: np.random.Generator) -> None:
    voxels = rng.integers(-1000, 1000, (10, 11, 12)).astype(np.float32)
    if damage == "nan":
        voxels[3, 4, 5] = np.nan
    if damage == "constant":
        voxels[:] = 40
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), path)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    if damage == "checksum":
        path.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])
    if damage == "empty":
        path.write_bytes(gzip.compress(b""))


def store_bytes(folder: Path) -> dict[str, bytes]:
    """Return the one store below `folder/embeddings`, file by file."""
    (store,) = (path.parent for path in (folder / "embeddings").rglob("manifest.json"))
    return {f"{store.name}/{path.name}": path.read_bytes() for path in sorted(store.iterdir())}
