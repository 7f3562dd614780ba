"""Predicted survival recalibrated on tuning: no model is fitted again, or even loaded, for it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics import Recalibration, fit_recalibration


def fitted_on(
    tuning: Outcomes,
    survival: Float[np.ndarray, "sample time"],
    times: Float[np.ndarray, " time"],
) -> Recalibration:
    """Fit the recalibration of one fit on its tuning part.

    Slope and baseline, or the baseline alone where events are too few.

    Args:
        tuning: Outcomes of the tuning part.
        survival: What the fit predicts for it, at `times` in days.
        times: Days, ascending.

    Raises:
        MetricError: No event in the tuning part.
    """
    try:
        return fit_recalibration(tuning.time, tuning.event, survival, times)
    except MetricError:
        return fit_recalibration(tuning.time, tuning.event, survival, times, method="baseline")
