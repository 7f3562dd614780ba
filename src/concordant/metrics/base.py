"""How a metric is computed from a predictions table, and the registry of those that are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.errors import ConfigError, MetricError
from concordant.core.registry import Registry
from concordant.core.survival import WEIGHT, Outcomes, Predictions
from concordant.metrics.censoring import CensoringCurve, censoring_curve
from concordant.metrics.inference import Estimate
from concordant.metrics.inputs import Curves, checked_outcomes


@dataclass(frozen=True)
class MetricInput:
    """What a metric is computed from: rows taken as one cohort, and up to when they are judged.

    Attributes:
        predictions: The rows; a column `weight` weighs them, rows of one `subject_id` are one
            cluster.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored.
        horizon_days: Days from the prediction time, for a metric at a horizon; else None.
        tau: A metric with `runs_to_tau` counts only cases, and integrates only over times, before
            it; None = all that is supported.
        other: The cohort whose censoring curve is read; None = the evaluated one.
        pooled: One censoring curve from both cohorts together.
    """

    predictions: Predictions
    cause: int | None = None
    horizon_days: float | None = None
    tau: float | None = None
    other: Outcomes | None = None
    pooled: bool = False

    @cached_property
    def outcomes(self) -> Outcomes:
        """Outcomes, clusters and weights of the rows.

        Raises:
            MetricError: There is no row, one has no subject, or `checked_outcomes` refuses them.
        """
        table, target = self.predictions.table, self.predictions.target
        if table["subject_id"].null_count():
            raise MetricError(
                "subject_id holds nulls; expected a subject for every row, or no such column in "
                "the file"
            )
        return checked_outcomes(
            target.time,
            target.event,
            weights=table[WEIGHT].cast(pl.Float64).to_numpy() if WEIGHT in table.columns else None,
            cluster=table["subject_id"].to_numpy(),
            cause=self.cause,
        )

    @cached_property
    def censoring(self) -> CensoringCurve:
        """The censoring curve that the rows are weighed by."""
        return censoring_curve(self.outcomes, self.other, pooled=self.pooled)

    @property
    def horizon(self) -> float:
        """The horizon.

        Raises:
            MetricError: None was given.
        """
        if self.horizon_days is None:
            raise MetricError("the metric needs a horizon; give horizons_days")
        return self.horizon_days

    @property
    def survival(self) -> Float[np.ndarray, " row"]:
        """Predicted survival at the horizon, see `survival_at`."""
        return survival_at(self.predictions, self.horizon)


def survival_at(predictions: Predictions, days: float) -> Float[np.ndarray, " row"]:
    """Read right-continuous curves: S at the last of their times <= days, 1 before the first.

    Raises:
        MetricError: Not every row has a curve, or the curves end before.
    """
    times, survival = survival_curves(predictions)
    if days > times[-1]:
        raise MetricError(
            f"the survival curves end at {times[-1]:g} days, before the horizon of {days:g}"
        )
    column = int(np.searchsorted(times, days, side="right")) - 1
    return survival[:, column] if column >= 0 else np.ones(len(survival))


def survival_curves(predictions: Predictions) -> Curves:
    """Return the survival curves of all rows.

    Raises:
        MetricError: Not every row has a curve.
    """
    survival = predictions.survival
    if survival is None or predictions.survival_times_days is None:
        raise MetricError("not every row has a survival curve")
    return Curves(predictions.survival_times_days, survival)


class Metric(ABC):
    """How a metric is computed from predictions.

    The contract (one test, run over the registry):

    * It raises MetricError, and nothing else, where it cannot be computed from these rows.
    * It returns the influence of every row, in the table's order, rows of one `subject_id` being
      one cluster.
    * It depends on nothing but what it is given, and not on the order of the rows.

    Attributes:
        at_horizons: True where the metric has one value per horizon.
        over_curve_times: True where its value depends on which times the survival curves are read
            at.
        runs_to_tau: True where its value depends on the time tau that it runs up to.
        takes_weights: True where it reads the weights of the rows; else a table with them is
            refused.
        takes_cause: True where it reads the cause; else a cause is refused.
        reads_survival: True where it takes 1 - survival for the probability of the event.
        is_concordance: True for an index with 0.5 = chance, 1 = perfect order.
        higher_is_better: Its direction; None where the best value lies inside its range (a
            calibration slope of 1), so that no gain is told.
        bounds: Between which its true value lies; an interval is cut there, which costs no
            coverage.
    """

    at_horizons: ClassVar[bool] = False
    over_curve_times: ClassVar[bool] = False
    runs_to_tau: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = False
    takes_cause: ClassVar[bool] = False
    reads_survival: ClassVar[bool] = False
    is_concordance: ClassVar[bool] = False
    higher_is_better: ClassVar[bool | None] = None
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @abstractmethod
    def compute(self, given: MetricInput) -> Estimate:
        """Compute the metric on all rows, taken as one cohort."""


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by name; an unknown name is a ConfigError that suggests one."""


def compute(metric: str, given: MetricInput) -> Estimate:
    """Compute a metric on all rows, taken as one cohort.

    Raises:
        ConfigError: An unknown metric, or weights or a cause for a metric that takes none.
        MetricError: It cannot be computed from these rows.
    """
    chosen = METRICS.create(metric)
    if WEIGHT in given.predictions.table.columns and not chosen.takes_weights:
        raise ConfigError(
            f"{metric} takes no weights; those that do: {_those_that('takes_weights')}"
        )
    if given.cause is not None and not chosen.takes_cause:
        raise ConfigError(
            f"{metric} has no form for competing events; those that have: "
            f"{_those_that('takes_cause')}"
        )
    return chosen.compute(given)


def _those_that(can: str) -> str:
    return ", ".join(name for name in METRICS if getattr(METRICS.get(name), can))
