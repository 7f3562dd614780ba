"""What a scan is worth: can it be read, how does it lie, are its values Hounsfield units.

The phase of a contrast agent is not guessed: attenuation alone separates phases only where the body
region is known, and headers that name it are free text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from concordant.core.errors import VolumeError
from concordant.core.volume import StoredVolume
from concordant.data.quality.catalogue import Scan
from concordant.data.volumes.grid import MAX_OBLIQUITY_DEGREES, axis_code, obliquity_degrees
from concordant.data.volumes.nifti import nifti_affine
from concordant.data.volumes.scans import open_series, open_volume

_SAMPLED = 1 << 22  # voxels looked at for the histogram
_BLOCK = 1 << 22
_BIN_HU = 10.0
_AIR_HU = (-1100.0, -900.0)
_SOFT_TISSUE_HU = (-20.0, 120.0)  # from water and enhanced fat to muscle, blood and enhanced organs
_BODY_HU = (-200.0, 300.0)
_MIN_BODY = 0.01  # share of voxels
_MIN_PEAK = 0.005
_EXPECTED_AIR_HU = (-1050.0, -950.0)
_MIN_SLICES = 5
_MIN_COVERAGE_MM = 50.0
_MAX_SLICE_DISTANCE_MM = 5.0


@dataclass(frozen=True, slots=True)
class ScanQuality:
    """What was measured, in millimetres and Hounsfield units; None where it cannot be told.

    Attributes:
        key: The scan's key.
        reason: Why it is quarantined: it cannot be read, or what it holds is no CT scan; None where
            it is usable.
        doubts: What a person should look at before using it.
        axes: Where the stored axes run to, fastest first, for example "LPS".
        obliquity_degrees: Angle between the stored grid and the body axes.
        n_slices: Slices stored as files or frames (DICOM), or along the body (NIfTI).
        n_missing: Slices that were interpolated.
        n_copies: Files that repeat a slice.
        n_set_aside: Localizers, screenshots and derived images of the series that were left out.
        even: Whether slices lie at even distances; None for NIfTI, which cannot tell.
        kernel: Reconstruction kernel.
        thickness_mm: Declared thickness of a slice.
        shape: Voxels (depth, height, width) of the volume that is read.
        spacing_mm: Their spacing.
        hu_range: Least and greatest value.
        air_peak: The commonest value of air, where there is air.
        soft_tissue_peak: The commonest value of soft tissue, where there is some.
        content: Digest of the voxels, rounded to whole Hounsfield units: equal for copies in
            whatever format.
    """

    key: str
    reason: str | None
    doubts: tuple[str, ...] = ()
    axes: str | None = None
    obliquity_degrees: float | None = None
    n_slices: int | None = None
    n_missing: int | None = None
    n_copies: int | None = None
    n_set_aside: int | None = None
    even: bool | None = None
    kernel: str | None = None
    thickness_mm: float | None = None
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    hu_range: tuple[float, float] | None = None
    air_peak: float | None = None
    soft_tissue_peak: float | None = None
    content: str | None = None


@dataclass(slots=True)
class _Findings:
    """What is collected on the way to a `ScanQuality`."""

    measured: dict[str, object] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    reason: str | None = None


def measure(scan: Scan) -> ScanQuality:
    """Read a scan and measure it; a refused one says why in `reason`, nothing is raised."""
    quality, _ = measure_opened(scan)
    return quality


def measure_opened(scan: Scan) -> tuple[ScanQuality, StoredVolume | None]:
    """Measure a scan; return it too, None where refused: a picture needs no second reading."""
    findings = _Findings()
    volume: StoredVolume | None = None
    try:
        if scan.reason is not None:
            raise VolumeError(scan.reason)
        _grid(scan, findings)
        if scan.series is not None:
            volume = open_series(scan.series)
        elif scan.file is not None:
            volume = open_volume(scan.file)
        else:
            raise VolumeError("no file")
        _extent(volume, findings)
        _intensity(volume, findings)
    except VolumeError as error:
        findings.reason = error.reason
    doubts = tuple(findings.doubts)
    # what was measured is named as its fields
    return ScanQuality(scan.key, findings.reason, doubts, **findings.measured), volume  # type: ignore[arg-type]


def _grid(scan: Scan, findings: _Findings) -> None:
    """Describe the grid as it is stored, before it is straightened."""
    if scan.series is None:
        if scan.file is not None:
            _stored_axes(nifti_affine(scan.file), findings)
        return
    stack, first = scan.series.stack, scan.series.images[0]
    if stack is None:
        return
    _stored_axes(stack.affine_mm, findings)
    findings.measured |= {
        "n_slices": len(stack.slot),
        "n_missing": stack.n_missing,
        "n_copies": stack.n_copies,
        "n_set_aside": scan.series.n_set_aside,
        "even": stack.even,
        "kernel": first.kernel or None,
        "thickness_mm": first.thickness_mm if np.isfinite(first.thickness_mm) else None,
    }
    doubts = {
        "missing slices, interpolated": stack.n_missing > 0,
        "slices at uneven distances, resampled": not stack.even,
        "copies of slices, left out": stack.n_copies > 0,
    }
    findings.doubts += [text for text, holds in doubts.items() if holds]


def _stored_axes(affine_mm: Float[np.ndarray, "4 4"], findings: _Findings) -> None:
    degrees = round(obliquity_degrees(affine_mm), 2)
    findings.measured |= {"axes": axis_code(affine_mm), "obliquity_degrees": degrees}
    if degrees > MAX_OBLIQUITY_DEGREES:
        findings.doubts.append("tilted or oblique")


def _extent(volume: StoredVolume, findings: _Findings) -> None:
    shape, spacing = volume.stored.shape, volume.spacing_mm
    findings.measured |= {"shape": shape, "spacing_mm": spacing}
    findings.measured.setdefault("n_slices", shape[0])
    if shape[0] < _MIN_SLICES:
        findings.reason = f"fewer than {_MIN_SLICES} slices"
    if shape[0] * spacing[0] < _MIN_COVERAGE_MM:
        findings.doubts.append(f"covers less than {_MIN_COVERAGE_MM:g} mm of the body")
    if spacing[0] > _MAX_SLICE_DISTANCE_MM:
        findings.doubts.append(f"slices more than {_MAX_SLICE_DISTANCE_MM:g} mm apart")


def _intensity(volume: StoredVolume, findings: _Findings) -> None:
    values = _sample(volume)
    low, high = float(values.min()), float(values.max())
    air, tissue = _peak(values, _AIR_HU), _peak(values, _SOFT_TISSUE_HU)
    findings.measured |= {
        "hu_range": (low, high),
        "air_peak": air,
        "soft_tissue_peak": tissue,
        "content": _content(volume),
    }
    if low > _BODY_HU[0]:
        findings.reason = (
            "implausible values: no air, lung or fat (a mask, or not Hounsfield units)"
        )
    elif ((values > _BODY_HU[0]) & (values < _BODY_HU[1])).mean() < _MIN_BODY:
        findings.reason = "implausible values: no soft tissue"
    elif air is not None and not _EXPECTED_AIR_HU[0] <= air <= _EXPECTED_AIR_HU[1]:
        findings.doubts.append("air is not at -1000 HU")


def _sample(volume: StoredVolume) -> Float[np.ndarray, " voxel"]:
    """Return Hounsfield units of an even sample of the voxels."""
    step = max(int(np.ceil((volume.stored.size / _SAMPLED) ** (1 / 3))), 1)
    return _hounsfield(volume, volume.stored[::step, ::step, ::step]).ravel()


def _hounsfield(
    volume: StoredVolume, stored: Shaped[np.ndarray, "*size"]
) -> Float[np.ndarray, "*size"]:
    return np.asarray(stored * np.float32(volume.slope) + np.float32(volume.intercept), np.float32)


def _peak(values: Float[np.ndarray, " voxel"], between: tuple[float, float]) -> float | None:
    """Return the middle of a range's fullest bin; None with few voxels, or if it is the last."""
    edges = np.arange(between[0], between[1] + _BIN_HU / 2, _BIN_HU)
    counts, _ = np.histogram(values, edges)
    fullest = int(counts.argmax())
    if counts.sum() < _MIN_PEAK * len(values) or fullest in (0, len(counts) - 1):
        return None
    return float(edges[fullest] + _BIN_HU / 2)


def _content(volume: StoredVolume) -> str:
    digest = hashlib.sha256(repr(volume.stored.shape).encode())
    step = max(_BLOCK // max(volume.stored[:1].size, 1), 1)
    for start in range(0, len(volume.stored), step):
        block = _hounsfield(volume, volume.stored[start : start + step])
        whole = np.rint(np.clip(block, -(1 << 15), (1 << 15) - 1)).astype("<i2")
        digest.update(np.ascontiguousarray(whole).data)
    return digest.hexdigest()


USABLE, REFUSED = "usable", "quarantined"

_AXES = ("depth", "height", "width")
_PLAIN: dict[str, pl.DataType] = {
    "axes": pl.String(),
    "obliquity_degrees": pl.Float64(),
    **dict.fromkeys(("n_slices", "n_missing", "n_copies", "n_set_aside"), pl.Int64()),
    "even": pl.Boolean(),
    "kernel": pl.String(),
    "thickness_mm": pl.Float64(),
}
"""Columns that are fields of `ScanQuality`."""
_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(("scan", "ct_path", "format", "status", "reason"), pl.String()),
    "doubts": pl.List(pl.String()),
    "duplicate_of": pl.String(),
    "content": pl.String(),
    **{f"n_{axis}": pl.Int64() for axis in _AXES},
    **{f"spacing_{axis}_mm": pl.Float64() for axis in _AXES},
    **{f"extent_{axis}_mm": pl.Float64() for axis in _AXES},
    **_PLAIN,
    **dict.fromkeys(("hu_min", "hu_max", "air_peak_hu", "soft_tissue_peak_hu"), pl.Float64()),
}


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
    later = pl.int_range(pl.len()).rank("ordinal").over("content") > 1
    same = pl.col("content").is_not_null() & later
    return table.with_columns(duplicate_of=pl.when(same).then(first).otherwise(None))


def _row(scan: Scan, quality: ScanQuality) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(quality, name) for name in (*_PLAIN, "content")}
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
