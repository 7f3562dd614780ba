"""The registered metrics: each reads what it needs from a predictions table."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.metrics.auc import auc_at
from concordant.metrics.base import METRICS, Metric, Setting
from concordant.metrics.brier import brier_score_at, integrated_brier_score
from concordant.metrics.calibration_curve import integrated_calibration_index
from concordant.metrics.concordance import concordance_index
from concordant.metrics.concordance_ipcw import concordance_index_ipcw
from concordant.metrics.inference import Estimate
from concordant.metrics.weak_calibration import calibration_in_the_large, calibration_slope


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
        horizon = _horizon("brier_score", setting)
        target = predictions.target
        return brier_score_at(
            target.time,
            target.event,
            _survival_at(_curves(predictions), horizon),
            horizon,
            censoring=setting.censoring,
            pooled=setting.pooled,
            cluster=_subjects(predictions.table),
        )


@METRICS.register("cumulative_dynamic_auc")
class DynamicAUC(Metric):
    """The cumulative/dynamic AUC of `risk` at a horizon: cases by then against those followed beyond it."""

    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the AUC."""
        target = predictions.target
        return auc_at(
            target.time,
            target.event,
            predictions.risk,
            _horizon("cumulative_dynamic_auc", setting),
            censoring=setting.censoring,
            pooled=setting.pooled,
            cluster=_subjects(predictions.table),
        )


@METRICS.register("integrated_calibration_index")
class CalibrationIndex(Metric):
    """The mean distance between predicted and observed probability at a horizon: 0 = calibrated."""

    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        return integrated_calibration_index(
            *_at_horizon("integrated_calibration_index", predictions, setting), cluster=_subjects(predictions.table)
        )


@METRICS.register("calibration_slope")
class Slope(Metric):
    """How much spread the predicted probabilities at a horizon should have: below 1 = too extreme, 1 = right."""

    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the slope; it uses no censoring curve."""
        given = _at_horizon("calibration_slope", predictions, setting)
        return calibration_slope(*given, cluster=_subjects(predictions.table))


@METRICS.register("calibration_in_the_large")
class InTheLarge(Metric):
    """Observed over expected probability of the event by a horizon: 1 = right, above 1 = the model promises too much survival."""

    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the ratio; it uses no censoring curve."""
        return calibration_in_the_large(
            *_at_horizon("calibration_in_the_large", predictions, setting), cluster=_subjects(predictions.table)
        )


def _horizon(metric: str, setting: Setting) -> float:
    if setting.horizon_days is None:
        raise MetricError(f"{metric} needs a horizon; give horizons_days")
    return setting.horizon_days


class _AtHorizon(NamedTuple):
    time: Float[np.ndarray, " subject"]
    event: Int[np.ndarray, " subject"]
    predicted: Float[np.ndarray, " subject"]
    horizon: float


def _at_horizon(metric: str, predictions: Predictions, setting: Setting) -> _AtHorizon:
    """Read the predicted probability of the event by the horizon; a curve is read at the last of its times before it."""
    horizon, target = _horizon(metric, setting), predictions.target
    return _AtHorizon(target.time, target.event, 1 - _survival_at(_curves(predictions), horizon), horizon)


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
