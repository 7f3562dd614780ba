"""Predicted survival recalibrated on tuning: no model is fitted again, or even loaded, for it."""

from __future__ import annotations

import polars as pl

from concordant.core.errors import MetricError
from concordant.core.survival import RECALIBRATED, Predictions
from concordant.metrics import Recalibration, fit_recalibration
from concordant.metrics.base import survival_curves


def recalibrate(tuning: Predictions, predictions: Predictions) -> Predictions:
    """Return the predictions of one fit with recalibrated survival, as variant `recalibrated`.

    Risks stay as they are. Predictions of several fits (folds, seeds) are recalibrated one by one
    and put together like those that they come from.

    Args:
        tuning: What the fit predicts for its own tuning part.
        predictions: What it predicts for any rows, at the same times.

    Raises:
        MetricError: A tuning part without an event, or rows without survival.
    """
    times, survival = survival_curves(predictions)
    changed = predictions.with_curves(_fitted(tuning).apply(survival, times))
    return Predictions(
        changed.table.with_columns(pl.lit(RECALIBRATED).alias("variant")),
        changed.survival_times_days,
    )


def _fitted(tuning: Predictions) -> Recalibration:
    """Fit slope and baseline, or the baseline alone where events are too few."""
    target, (times, survival) = tuning.target, survival_curves(tuning)
    try:
        return fit_recalibration(target.time, target.event, survival, times)
    except MetricError:
        return fit_recalibration(target.time, target.event, survival, times, method="baseline")
