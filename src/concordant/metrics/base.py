"""How a metric is computed from a predictions table, and the registry of those that are."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from concordant.core.errors import ConfigError
from concordant.core.registry import Registry
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.metrics.inference import Estimate

WEIGHT = "weight"
"""Column of a predictions table that, where it is there, weighs its rows.

A weight of 2 equals two copies of the subject.
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a metric is computed with, beside the predictions.

    Attributes:
        horizon_days: Days from the prediction time, for a metric at a horizon; else None.
        censoring: The cohort whose censoring curve is used; None = the evaluated one.
        pooled: One censoring curve from both cohorts together.
        tau: A metric with `runs_to_tau` counts only cases, and integrates only over times, before
            it; None = all that is supported.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored.
    """

    horizon_days: float | None = None
    censoring: SurvivalTarget | None = None
    pooled: bool = False
    tau: float | None = None
    cause: int | None = None


class Metric(ABC):
    """How a metric is computed from predictions.

    The contract (one test, run over the registry):

    * It raises MetricError, and nothing else, where it cannot be computed from these rows.
    * It returns the influence of every row, in the table's order, rows of one `subject_id` being
      one cluster.
    * It depends on nothing but the rows given and the setting, and not on their order.

    Attributes:
        at_horizons: True where the metric has one value per horizon.
        over_curve_times: True where its value depends on which times the survival curves are read
            at.
        runs_to_tau: True where its value depends on the time tau that it runs up to.
        takes_weights: True where it reads the column `weight` of the predictions; else a table with
            that column is refused.
        takes_cause: True where it reads the setting's `cause`; else a cause is refused.
        reads_survival: True where it takes 1 - survival for the probability of the event.
        bounds: Between which its true value lies; an interval is cut there, which costs no
            coverage.
    """

    at_horizons: ClassVar[bool] = False
    over_curve_times: ClassVar[bool] = False
    runs_to_tau: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = False
    takes_cause: ClassVar[bool] = False
    reads_survival: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    @abstractmethod
    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the metric on all rows, taken as one cohort."""


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by name; an unknown name is a ConfigError that suggests one."""


def compute(metric: str, predictions: Predictions, setting: Setting) -> Estimate:
    """Compute a metric on all rows, taken as one cohort.

    Args:
        metric: A name from `METRICS`.
        predictions: The rows; a column `weight` weighs them.
        setting: Horizon, censoring curve, tau and cause.

    Raises:
        ConfigError: An unknown metric, or weights or a cause for a metric that takes none.
        MetricError: It cannot be computed from these rows.
    """
    chosen = METRICS.create(metric)
    if WEIGHT in predictions.table.columns and not chosen.takes_weights:
        raise ConfigError(
            f"{metric} takes no weights; those that do: {_those_that('takes_weights')}"
        )
    if setting.cause is not None and not chosen.takes_cause:
        raise ConfigError(
            f"{metric} has no form for competing events; those that have: "
            f"{_those_that('takes_cause')}"
        )
    return chosen.compute(predictions, setting)


def _those_that(can: str) -> str:
    return ", ".join(name for name in METRICS if getattr(METRICS.get(name), can))
