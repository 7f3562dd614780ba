"""How a metric is computed from a predictions table, and the registry of those that are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from concordant.core.registry import Registry
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.metrics.inference import Estimate


@dataclass(frozen=True, slots=True)
class Setting:
    """What a metric is computed with, beside the predictions.

    Attributes:
        horizon_days: Days from the prediction time, for a metric at a horizon; else None.
        censoring: The cohort whose censoring curve is used; None = the evaluated one.
        pooled: One censoring curve from both cohorts together.
    """

    horizon_days: float | None = None
    censoring: SurvivalTarget | None = None
    pooled: bool = False


class Metric(ABC):
    """How a metric is computed from predictions.

    The contract (one test, run over the registry):

    * It raises MetricError, and nothing else, where it cannot be computed from these rows.
    * It returns the influence of every row, in the table's order, rows of one `subject_id` being one cluster.
    * It depends on nothing but the rows given and the setting, and not on their order.

    Attributes:
        at_horizons: True where the metric has one value per horizon.
        over_curve_times: True where its value depends on which times the survival curves are read at.
    """

    at_horizons: ClassVar[bool] = False
    over_curve_times: ClassVar[bool] = False

    @abstractmethod
    def compute(self, predictions: Predictions, setting: Setting) -> Estimate:
        """Compute the metric on all rows, taken as one cohort."""


METRICS: Registry[Metric] = Registry("metric")
"""Metrics by name; an unknown name is a ConfigError that suggests one."""
