"""Another group's predictions.

Five real systems of the RADCURE challenge, from two modalities and both, on the same 750 patients.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from concordant.analysis.compare import compare_files

DATA = (
    Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "radcure"
)
pytestmark = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"no predictions at {DATA}; set CONCORDANT_DATA to the folder that holds radcure",
)

CONCORDANCE = {  # radcure/PROVENANCE.md, on the follow-up of 2024
    "challenge_EMR_c22638c": 0.790,
    "baseline_baseline_radiomics": 0.731,
    "challenge_radiomics_60f36db": 0.740,
    "challenge_combined_5e515f3": 0.803,
    "challenge_combined_ensemble": 0.806,
}

LARGEST_CHANGE = 0.018
"""By how much the longer follow-up moves a concordance (PROVENANCE.md: .003 to .017)."""


def outcomes():
    table = pl.read_csv(DATA / "RADCURE_Clinical_v04_20241219.csv", infer_schema=False).filter(
        pl.col("RADCURE-challenge") == "test"
    )
    return table.select(
        sample_id=pl.col("patient_id"),
        time_days=pl.col("Length FU").cast(pl.Float64) * 365.25,
        event=(pl.col("Status") == "Dead").cast(pl.Int8),
    )


def system(name):
    table = pl.read_csv(DATA / "predictions" / f"{name}.csv", infer_schema=False)
    column = (
        "survival_event" if "survival_event" in table.columns else "binary"
    )  # three systems give the two-year risk only
    number = pl.col("Study ID").str.extract(r"(\d+)$").str.zfill(4)
    return table.select(sample_id=pl.lit("RADCURE-") + number, risk=pl.col(column).cast(pl.Float64))


def test_real_systems_have_their_published_concordance(tmp_path):
    paths = [tmp_path / f"{name}.parquet" for name in CONCORDANCE]
    for path in paths:
        outcomes().join(system(path.stem), on="sample_id").write_parquet(path)
    result = compare_files(paths)
    assert result.n_shared == 750
    assert (
        dict(zip(result.files["file"], result.files["value"].round(3), strict=True)) == CONCORDANCE
    )
    differences = result.differences.with_columns(
        radiomics=pl.col("file").str.contains("radiomics")
    )
    assert (
        differences.filter("radiomics")["p_value"] < 0.05
    ).all()  # the scan alone is worse than the record alone,
    assert (
        differences.filter(~pl.col("radiomics"))["difference"] > 0
    ).all()  # both together are better,
    assert (
        differences["p_adjusted"] > 0.05
    ).all()  # but with 116 deaths and four tests nothing is beyond doubt


def test_all_sixteen_systems_keep_their_published_order(tmp_path):
    """The published values end at two years on the follow-up of the challenge, so neighbours may
    change places.
    """
    paths = [
        tmp_path / f"{file.stem}.parquet" for file in sorted((DATA / "predictions").glob("*.csv"))
    ]
    for path in paths:
        outcomes().join(system(path.stem), on="sample_id").write_parquet(path)
    found = compare_files(paths, metrics=("concordance_index",)).files.select(
        name="file", ours="value"
    )
    published = pl.read_csv(DATA / "challenge" / "metrics.csv").select(
        "submission_id", "kind", published="concordance_index"
    )
    name = pl.col("name").str.split("_").list
    both = found.with_columns(submission_id=name.get(2), kind=name.get(1)).join(
        published, on="submission_id", suffix="_published"
    )
    both = both.filter(
        (pl.col("kind") == pl.col("kind_published")) | (pl.col("submission_id") == "c927742")
    )  # filed under another kind
    assert found.height == both.height == 16
    assert both.select((pl.col("ours") - pl.col("published")).abs().max()).item() < LARGEST_CHANGE
    assert both.select(pl.corr("ours", "published", method="spearman")).item() > 0.98
