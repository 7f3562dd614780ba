"""The registered metrics: each reads what it needs from a predictions table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.metrics.base import METRICS, Metric, Setting
from concordant.metrics.brier import brier_score_at, integrated_brier_score
from concordant.metrics.concordance import concordance_index, concordance_index_ipcw
from concordant.metrics.inference import Estimate


@METRICS.register("concordance_index")
class HarrellConcordance(Metric):
    """Harrell's concordance index of `risk`."""

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        target = predictions.target
        return concordance_index(target.time, target.event, predictions.risk, cluster=_subjects(predictions.table))


@METRICS.register("concordance_index_ipcw")
class UnoConcordance(Metric):
    """Uno's concordance index of `risk` over the times that the censoring curve supports."""

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index."""
        target = predictions.target
        return concordance_index_ipcw(
            target.time,
            target.event,
            predictions.risk,
            censoring=setting.censoring,
            pooled=setting.pooled,
            cluster=_subjects(predictions.table),
        )


@METRICS.register("integrated_brier_score")
class IntegratedBrier(Metric):
    """The mean Brier score over the supported range of the survival curves' times."""

    over_curve_times = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the score."""
        curves = _curves(predictions)
        target = predictions.target
        return integrated_brier_score(
            target.time,
            target.event,
            curves.survival,
            curves.times,
            censoring=setting.censoring,
            pooled=setting.pooled,
            cluster=_subjects(predictions.table),
        )


@METRICS.register("brier_score")
class BrierAtHorizon(Metric):
    """The Brier score at a horizon."""

    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the score; a curve without the horizon among its times is read at the last time before it."""
        if setting.horizon_days is None:
            raise MetricError("brier_score needs a horizon; give horizons_days")
        target = predictions.target
        return brier_score_at(
            target.time,
            target.event,
            _survival_at(_curves(predictions), setting.horizon_days),
            setting.horizon_days,
            censoring=setting.censoring,
            pooled=setting.pooled,
            cluster=_subjects(predictions.table),
        )


class _Curves(NamedTuple):
    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, "subject time"]


def _subjects(table: pl.DataFrame) -> Int[np.ndarray, " subject"]:
    if table["subject_id"].null_count():
        raise MetricError("subject_id holds nulls; expected a subject for every row, or no such column in the file")
    return table["subject_id"].to_numpy()


def _curves(predictions: Predictions) -> _Curves:
    survival = predictions.survival
    if survival is None or predictions.survival_times_days is None:
        raise MetricError("not every row has a survival curve")
    return _Curves(predictions.survival_times_days, survival)


def _survival_at(curves: _Curves, days: float) -> Float[np.ndarray, " subject"]:
    """Read right-continuous curves: S at the last time <= days, 1 before the first.

    Raises:
        MetricError: The curves end before.
    """
    if days > curves.times[-1]:
        raise MetricError(f"the survival curves end at {curves.times[-1]:g} days, before the horizon of {days:g}")
    column = int(np.searchsorted(curves.times, days, side="right")) - 1
    return curves.survival[:, column] if column >= 0 else np.ones(len(curves.survival))
