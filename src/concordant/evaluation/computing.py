"""How a metric is computed on the rows of one cohort or fold, up to a tau and with weights where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.errors import ConfigError, MetricError
from concordant.core.survival import Predictions
from concordant.evaluation.measures import TRUNCATED
from concordant.metrics import (
    METRICS,
    Estimate,
    Setting,
    auc_at,
    brier_score_at,
    calibration_in_the_large,
    calibration_slope,
    concordance_index,
    concordance_index_ipcw,
    integrated_brier_score,
    integrated_calibration_index,
)

WEIGHT = "weight"
"""Column of a predictions table that, where it is there, weighs its rows: a weight of 2 equals two copies of the subject."""


def compute(metric: str, predictions: Predictions, setting: Setting, tau: float | None = None) -> Estimate:
    """Compute a metric on all rows, taken as one cohort.

    Args:
        metric: A name from `METRICS`.
        predictions: The rows; a column `weight` weighs them.
        setting: Horizon and censoring curve.
        tau: The metrics of `TRUNCATED` count only cases, and integrate only over times, before it; None = all the follow-up supports.

    Raises:
        ConfigError: An unknown metric, or weights for a metric that takes none.
        MetricError: It cannot be computed from these rows.
    """
    registered = METRICS.create(metric)
    weighted = WEIGHT in predictions.table.columns
    if not weighted and (tau is None or metric not in TRUNCATED):
        return registered.compute(predictions, setting)
    if metric not in _LIBRARY:
        raise ConfigError(f"{metric} takes no weights; those that do: {', '.join(_LIBRARY)}")
    return _LIBRARY[metric](_Given(predictions, setting, tau))


class _Given(NamedTuple):
    """The arguments of the library's functions."""

    predictions: Predictions
    setting: Setting
    tau: float | None

    @property
    def rows(self) -> dict[str, Any]:
        """Outcomes, clusters and weights."""
        table, target = self.predictions.table, self.predictions.target
        if table["subject_id"].null_count():
            raise MetricError("subject_id holds nulls; expected a subject for every row, or no such column in the file")
        weights = table[WEIGHT].cast(pl.Float64).to_numpy() if WEIGHT in table.columns else None
        return {"time": target.time, "event": target.event, "cluster": table["subject_id"].to_numpy(), "weights": weights}

    @property
    def risks(self) -> dict[str, Any]:
        """The rows and their risks."""
        return {**self.rows, "risk": self.predictions.risk}

    @property
    def curve(self) -> dict[str, Any]:
        return {"censoring": self.setting.censoring, "pooled": self.setting.pooled}

    @property
    def horizon(self) -> float:
        if self.setting.horizon_days is None:
            raise MetricError("the metric needs a horizon; give horizons_days")
        return self.setting.horizon_days

    @property
    def survival_at_horizon(self) -> dict[str, Any]:
        """The rows, the horizon and S there."""
        return {**self.rows, "horizon": self.horizon, "survival": survival_at(self.predictions, self.horizon)}

    @property
    def probability_at_horizon(self) -> dict[str, Any]:
        """The rows, the horizon and the probability of the event by then."""
        return {**self.rows, "horizon": self.horizon, "predicted": 1 - survival_at(self.predictions, self.horizon)}


def survival_at(predictions: Predictions, days: float) -> Float[np.ndarray, " row"]:
    """Read right-continuous curves: S at the last of their times <= days, 1 before the first.

    Raises:
        MetricError: Not every row has a curve, or the curves end before.
    """
    survival, times = predictions.survival, predictions.survival_times_days
    if survival is None or times is None:
        raise MetricError("not every row has a survival curve")
    if days > times[-1]:
        raise MetricError(f"the survival curves end at {times[-1]:g} days, before the horizon of {days:g}")
    column = int(np.searchsorted(times, days, side="right")) - 1
    return survival[:, column] if column >= 0 else np.ones(len(survival))


def _integrated_brier_score(given: _Given) -> Estimate:
    survival, times = given.predictions.survival, given.predictions.survival_times_days
    if survival is None or times is None:
        raise MetricError("not every row has a survival curve")
    before = times < (np.inf if given.tau is None else given.tau)
    if before.sum() < 2:
        raise MetricError(f"an integral needs two times or more before tau = {given.tau:g}; the survival curves start at {times[0]:g}")
    return integrated_brier_score(survival=survival[:, before], times=times[before], **given.curve, **given.rows)


_LIBRARY: Mapping[str, Callable[[_Given], Estimate]] = {
    "concordance_index": lambda one: concordance_index(**one.risks),
    "concordance_index_ipcw": lambda one: concordance_index_ipcw(**one.risks, **one.curve, tau=one.tau),
    "integrated_brier_score": _integrated_brier_score,
    "brier_score": lambda one: brier_score_at(**one.survival_at_horizon, **one.curve),
    "cumulative_dynamic_auc": lambda one: auc_at(**one.risks, **one.curve, horizon=one.horizon),
    "integrated_calibration_index": lambda one: integrated_calibration_index(**one.probability_at_horizon),
    "calibration_slope": lambda one: calibration_slope(**one.probability_at_horizon),
    "calibration_in_the_large": lambda one: calibration_in_the_large(**one.probability_at_horizon),
}
