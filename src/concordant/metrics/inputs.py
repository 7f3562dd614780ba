"""What every metric accepts: checked once here, so that the kernels can assume valid input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import SurvivalTarget

Codes = Real[np.ndarray, " subject"] | Bool[np.ndarray, " subject"]
"""Event codes as a metric takes them: 1 (or True) = observed, anything else = censored."""


@dataclass(frozen=True, slots=True)
class Subjects:
    """Checked outcomes with their weights and clusters.

    Attributes:
        time: Follow-up, > 0, finite.
        observed: True where the event of interest (code 1) was observed.
        weights: One weight per row; int32 ones where none were given, so that counts stay integers.
        cluster: Cluster number per row, or None where every row is its own.
    """

    time: Float[np.ndarray, " subject"]
    observed: Bool[np.ndarray, " subject"]
    weights: Real[np.ndarray, " subject"]
    cluster: Int[np.ndarray, " subject"] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.time)

    @property
    def n_events(self) -> int:
        """Number of rows with the event of interest."""
        return int(self.observed.sum())


def checked_subjects(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> Subjects:
    """Check outcomes, weights and clusters.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored.
        weights: Finite, >= 0, not all 0; None = 1 each.
        cluster: Labels of any kind (a subject's id where it has several scans); None = every row its own.

    Raises:
        MetricError: Lengths differ, no row, a time <= 0, NaN anywhere, a negative weight, or no weight above 0.
    """
    target = checked_target(time, event)
    count = len(target)
    ones = np.ones(count, np.int32)
    return Subjects(
        time=target.time,
        observed=target.observed,
        weights=ones if weights is None else _checked_weights(weights, count),
        cluster=None if cluster is None else _cluster_numbers(cluster, count),
    )


def checked_target(time: Real[np.ndarray, " subject"], event: Codes) -> SurvivalTarget:
    """Check outcomes alone.

    Raises:
        MetricError: Lengths differ, no row, a time that is not > 0 and finite, or an event code that is NaN.
    """
    times = np.asarray(time, dtype=np.float64)
    codes = np.asarray(event)
    if times.ndim != 1 or times.size == 0:
        raise MetricError(f"time has shape {times.shape}; expected one time per subject, at least one")
    if codes.shape != times.shape:
        raise MetricError(f"event has shape {codes.shape}, time {times.shape}; expected one event code per time")
    if not bool((np.isfinite(times) & (times > 0)).all()):
        bad = int((~(np.isfinite(times) & (times > 0))).sum())
        raise MetricError(f"time has {bad} value(s) that are not finite and > 0; expected follow-up after the prediction time")
    if np.issubdtype(codes.dtype, np.floating) and np.isnan(codes).any():
        raise MetricError("event holds NaN; expected 1 for an observed event, anything else for a censored one")
    return SurvivalTarget(times, codes.astype(np.int64))


def checked_risk(risk: Real[np.ndarray, " subject"], count: int) -> Float[np.ndarray, " subject"]:
    """Check a risk, higher = earlier event.

    Raises:
        MetricError: Not one finite number per subject.
    """
    values = np.asarray(risk, dtype=np.float64)
    _check_length("risk", values, count)
    if not np.isfinite(values).all():
        raise MetricError(f"risk has {int((~np.isfinite(values)).sum())} value(s) that are NaN or infinite; expected finite numbers")
    return values


def _checked_weights(weights: Any, count: int) -> Float[np.ndarray, " subject"]:
    values = np.asarray(weights, dtype=np.float64)
    _check_length("weights", values, count)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values > 0).any()):
        raise MetricError("weights must be finite and >= 0, with at least one above 0")
    return values


def _cluster_numbers(cluster: Any, count: int) -> Int[np.ndarray, " subject"]:
    labels = np.asarray(cluster)
    _check_length("cluster", labels, count)
    return np.asarray(np.unique(labels, return_inverse=True)[1], dtype=np.int64)


def _check_length(name: str, values: Shaped[np.ndarray, " any"], count: int) -> None:
    if values.shape != (count,):
        raise MetricError(f"{name} has shape {values.shape}; expected ({count},), one value per time")
