"""What is computed: metrics at their horizons, and in which direction each of them is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from concordant.core.errors import ConfigError
from concordant.metrics import METRICS

CensoringSource = Literal["cohort", "train", "pooled"]
"""Whose censoring curve a metric weighs by.

The evaluated cohort's, train's, or one of both together.
"""

_HIGHER = ("concordance_index", "cumulative_dynamic_auc")
_LOWER = ("brier_score", "integrated_brier_score", "integrated_calibration_index")


class Measure(NamedTuple):
    """A metric, at a horizon where it has one."""

    metric: str
    horizon_days: float | None


def measures(metrics: Sequence[str], horizons_days: Sequence[float] = ()) -> tuple[Measure, ...]:
    """Return what is to be computed: every metric, those at horizons once per horizon.

    Raises:
        ConfigError: An unknown metric, or a metric at horizons without any.
    """
    listed: list[Measure] = []
    for metric in metrics:
        at_horizons = METRICS.get(metric).at_horizons
        if at_horizons and not horizons_days:
            raise ConfigError(
                f"{metric} is computed at horizons; give the days (horizons_days, --horizon, "
                "task.horizons_days of a study)"
            )
        listed += (
            [Measure(metric, float(days)) for days in horizons_days]
            if at_horizons
            else [Measure(metric, None)]
        )
    return tuple(listed)


def is_concordance(metric: str) -> bool:
    """Tell whether a metric is a concordance index: 0.5 = chance, 1 = perfect order."""
    return metric.startswith("concordance_index")


def higher_is_better(metric: str) -> bool | None:
    """Tell the direction of a metric.

    None where the best value lies inside its range (a calibration slope of 1) or is not known.
    """
    if is_concordance(metric) or metric in _HIGHER:
        return True
    return False if metric in _LOWER else None
