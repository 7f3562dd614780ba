"""The quality of many scans as one table: a row a scan, quarantined ones with their reason."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from concordant.data.quality.catalogue import Scan
from concordant.data.quality.measure import ScanQuality

USABLE, REFUSED = "usable", "quarantined"

_AXES = ("depth", "height", "width")
_SCHEMA: dict[str, pl.DataType] = {
    "scan": pl.String(),
    "ct_path": pl.String(),
    "format": pl.String(),
    "status": pl.String(),
    "reason": pl.String(),
    "doubts": pl.List(pl.String()),
    "duplicate_of": pl.String(),
    "content": pl.String(),
    **{f"n_{axis}": pl.Int64() for axis in _AXES},
    **{f"spacing_{axis}_mm": pl.Float64() for axis in _AXES},
    **{f"extent_{axis}_mm": pl.Float64() for axis in _AXES},
    "axes": pl.String(),
    "obliquity_degrees": pl.Float64(),
    "n_slices": pl.Int64(),
    "n_missing": pl.Int64(),
    "n_copies": pl.Int64(),
    "n_set_aside": pl.Int64(),
    "even": pl.Boolean(),
    "kernel": pl.String(),
    "thickness_mm": pl.Float64(),
    "hu_min": pl.Float64(),
    "hu_max": pl.Float64(),
    "air_peak_hu": pl.Float64(),
    "soft_tissue_peak_hu": pl.Float64(),
}
_PLAIN = (
    "axes",
    "obliquity_degrees",
    "n_slices",
    "n_missing",
    "n_copies",
    "n_set_aside",
    "even",
    "kernel",
    "thickness_mm",
    "content",
)


def quality_table(scans: Sequence[Scan], qualities: Sequence[ScanQuality]) -> pl.DataFrame:
    """Return one row per scan, in order.

    `duplicate_of` names the first scan with the same voxels (to whole Hounsfield units), whatever
    its format; the first itself has null. `ct_path` is relative to the folder that was searched and
    may identify a patient; no other column does.
    """
    table = pl.DataFrame(
        [_row(scan, quality) for scan, quality in zip(scans, qualities, strict=True)],
        schema=_SCHEMA,
    )
    first = pl.col("scan").first().over("content")
    same = pl.col("content").is_not_null() & (
        pl.int_range(pl.len()).rank("ordinal").over("content") > 1
    )
    return table.with_columns(duplicate_of=pl.when(same).then(first).otherwise(None))


def _row(scan: Scan, quality: ScanQuality) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(quality, name) for name in _PLAIN}
    row |= {
        "scan": scan.key,
        "ct_path": scan.ct_path,
        "format": scan.format,
        "status": USABLE if quality.reason is None else REFUSED,
        "reason": quality.reason,
        "doubts": list(quality.doubts),
        "air_peak_hu": quality.air_peak,
        "soft_tissue_peak_hu": quality.soft_tissue_peak,
    }
    if quality.shape is not None and quality.spacing_mm is not None:
        for axis, size, spacing in zip(_AXES, quality.shape, quality.spacing_mm, strict=True):
            row |= {
                f"n_{axis}": size,
                f"spacing_{axis}_mm": spacing,
                f"extent_{axis}_mm": size * spacing,
            }
    if quality.hu_range is not None:
        row["hu_min"], row["hu_max"] = quality.hu_range
    return row
