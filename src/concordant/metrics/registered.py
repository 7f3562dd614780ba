"""The registered metrics: each reads what it needs from a predictions table."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.errors import MetricError
from concordant.core.survival import Predictions
from concordant.metrics.auc import auc_at
from concordant.metrics.base import METRICS, WEIGHT, Metric, Setting
from concordant.metrics.brier import brier_score_at, integrated_brier_score
from concordant.metrics.calibration_curve import integrated_calibration_index
from concordant.metrics.concordance import concordance_index
from concordant.metrics.concordance_ipcw import concordance_index_ipcw
from concordant.metrics.inference import Estimate
from concordant.metrics.weak_calibration import calibration_in_the_large, calibration_slope

_UNIT = (0.0, 1.0)
_NOT_NEGATIVE = (0.0, math.inf)


class _Registered(Metric):
    """One of this library's metrics: all of them take weights and a cause."""

    takes_weights = True
    takes_cause = True


@METRICS.register("concordance_index")
class HarrellConcordance(_Registered):
    """Harrell's concordance index of `risk`."""

    bounds = _UNIT

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        return concordance_index(risk=predictions.risk, **_rows(predictions, setting))


@METRICS.register("concordance_index_ipcw")
class UnoConcordance(_Registered):
    """Uno's concordance index of `risk` over the times that the censoring curve supports, or up
    to tau.
    """

    bounds = _UNIT
    runs_to_tau = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index."""
        return concordance_index_ipcw(
            risk=predictions.risk, tau=setting.tau, **_rows(predictions, setting), **_curve(setting)
        )


@METRICS.register("integrated_brier_score")
class IntegratedBrier(_Registered):
    """The mean Brier score over the supported range of the survival curves' times, or those
    before tau.
    """

    bounds = _UNIT
    over_curve_times = True
    runs_to_tau = True
    reads_survival = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the score."""
        times, survival = _curves(predictions)
        if setting.tau is not None:
            before = times < setting.tau
            if before.sum() < 2:
                starts = f"the survival curves start at {times[0]:g}"
                raise MetricError(
                    f"an integral needs two times or more before tau = {setting.tau:g}; {starts}"
                )
            survival, times = survival[:, before], times[before]
        return integrated_brier_score(
            survival=survival, times=times, **_rows(predictions, setting), **_curve(setting)
        )


@METRICS.register("brier_score")
class BrierAtHorizon(_Registered):
    """The Brier score at a horizon."""

    bounds = _UNIT
    at_horizons = True
    reads_survival = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the score; a curve without the horizon among its times is read at the last
        time before it.
        """
        horizon = _horizon("brier_score", setting)
        return brier_score_at(
            survival=survival_at(predictions, horizon),
            horizon=horizon,
            **_rows(predictions, setting),
            **_curve(setting),
        )


@METRICS.register("cumulative_dynamic_auc")
class DynamicAUC(_Registered):
    """The cumulative/dynamic AUC of `risk` at a horizon.

    Cases by then against those followed beyond it.
    """

    bounds = _UNIT
    at_horizons = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the AUC."""
        horizon = _horizon("cumulative_dynamic_auc", setting)
        return auc_at(
            risk=predictions.risk, horizon=horizon, **_rows(predictions, setting), **_curve(setting)
        )


@METRICS.register("integrated_calibration_index")
class CalibrationIndex(_Registered):
    """The mean distance between predicted and observed probability at a horizon: 0 = calibrated."""

    bounds = _UNIT
    at_horizons = True
    reads_survival = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        return integrated_calibration_index(
            **_at_horizon("integrated_calibration_index", predictions, setting)
        )


@METRICS.register("calibration_slope")
class Slope(_Registered):
    """How much spread the predicted probabilities at a horizon should have.

    Below 1 = too extreme, 1 = right.
    """

    at_horizons = True
    reads_survival = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the slope; it uses no censoring curve."""
        return calibration_slope(**_at_horizon("calibration_slope", predictions, setting))


@METRICS.register("calibration_in_the_large")
class InTheLarge(_Registered):
    """Observed over expected probability of the event by a horizon.

    1 = right, above 1 = the model promises too much survival.
    """

    bounds = _NOT_NEGATIVE
    at_horizons = True
    reads_survival = True

    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the ratio; it uses no censoring curve."""
        return calibration_in_the_large(
            **_at_horizon("calibration_in_the_large", predictions, setting)
        )


def survival_at(predictions: Predictions, days: float) -> Float[np.ndarray, " row"]:
    """Read right-continuous curves: S at the last of their times <= days, 1 before the first.

    Raises:
        MetricError: Not every row has a curve, or the curves end before.
    """
    times, survival = _curves(predictions)
    if days > times[-1]:
        raise MetricError(
            f"the survival curves end at {times[-1]:g} days, before the horizon of {days:g}"
        )
    column = int(np.searchsorted(times, days, side="right")) - 1
    return survival[:, column] if column >= 0 else np.ones(len(survival))


def _rows(predictions: Predictions, setting: Setting) -> dict[str, Any]:
    """Return outcomes, clusters, weights and the cause as the library's functions call them."""
    table, target = predictions.table, predictions.target
    if table["subject_id"].null_count():
        raise MetricError(
            "subject_id holds nulls; expected a subject for every row, or no such column in the "
            "file"
        )
    weights = table[WEIGHT].cast(pl.Float64).to_numpy() if WEIGHT in table.columns else None
    cluster = table["subject_id"].to_numpy()
    return {
        "time": target.time,
        "event": target.event,
        "cluster": cluster,
        "weights": weights,
        "cause": setting.cause,
    }


def _curve(setting: Setting) -> dict[str, Any]:
    return {"censoring": setting.censoring, "pooled": setting.pooled}


def _at_horizon(metric: str, predictions: Predictions, setting: Setting) -> dict[str, Any]:
    """Return the rows, the horizon and the predicted probability of the event by then."""
    horizon = _horizon(metric, setting)
    return {
        **_rows(predictions, setting),
        "horizon": horizon,
        "predicted": 1 - survival_at(predictions, horizon),
    }


def _horizon(metric: str, setting: Setting) -> float:
    if setting.horizon_days is None:
        raise MetricError(f"{metric} needs a horizon; give horizons_days")
    return setting.horizon_days


class _Curves(NamedTuple):
    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, "row time"]


def _curves(predictions: Predictions) -> _Curves:
    survival = predictions.survival
    if survival is None or predictions.survival_times_days is None:
        raise MetricError("not every row has a survival curve")
    return _Curves(predictions.survival_times_days, survival)
