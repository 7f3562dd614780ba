"""Another group's predictions: five real systems of the RADCURE challenge, from two modalities and both, on the same 750 patients."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from concordant.analysis.compare import compare_files

DATA = Path(os.environ.get("CONCORDANT_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")) / "radcure"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no predictions at {DATA}; set CONCORDANT_DATA to the folder that holds radcure")

CONCORDANCE = {  # radcure/PROVENANCE.md, on the follow-up of 2024
    "challenge_EMR_c22638c": 0.790,
    "baseline_baseline_radiomics": 0.731,
    "challenge_radiomics_60f36db": 0.740,
    "challenge_combined_5e515f3": 0.803,
    "challenge_combined_ensemble": 0.806,
}


def outcomes():
    table = pl.read_csv(DATA / "RADCURE_Clinical_v04_20241219.csv", infer_schema=False).filter(pl.col("RADCURE-challenge") == "test")
    return table.select(
        sample_id=pl.col("patient_id"),
        time_days=pl.col("Length FU").cast(pl.Float64) * 365.25,
        event=(pl.col("Status") == "Dead").cast(pl.Int8),
    )


def system(name):
    table = pl.read_csv(DATA / "predictions" / f"{name}.csv", infer_schema=False)
    number = pl.col(table.columns[0]).str.extract(r"(\d+)$").str.zfill(4)
    return table.select(sample_id=pl.lit("RADCURE-") + number, risk=pl.col("survival_event").cast(pl.Float64))


def test_real_systems_have_their_published_concordance(tmp_path):
    paths = [tmp_path / f"{name}.parquet" for name in CONCORDANCE]
    for path in paths:
        outcomes().join(system(path.stem), on="sample_id").write_parquet(path)
    result = compare_files(paths)
    assert result.n_shared == 750
    assert dict(zip(result.files["file"], result.files["value"].round(3), strict=True)) == CONCORDANCE
    differences = result.differences.with_columns(radiomics=pl.col("file").str.contains("radiomics"))
    assert (differences.filter("radiomics")["p_value"] < 0.05).all()  # the scan alone is worse than the record alone,
    assert (differences.filter(~pl.col("radiomics"))["difference"] > 0).all()  # both together are better,
    assert (differences["p_adjusted"] > 0.05).all()  # but with 116 deaths and four tests nothing is beyond doubt
