"""The registered metrics: each reads what it needs from a predictions table."""

from __future__ import annotations

import math

from concordant.core.errors import MetricError
from concordant.metrics.auc import area_at
from concordant.metrics.base import METRICS, Metric, MetricInput, survival_curves
from concordant.metrics.brier import integrated_score, score_at
from concordant.metrics.calibration_curve import calibration_index
from concordant.metrics.concordance import harrell_concordance
from concordant.metrics.concordance_ipcw import uno_concordance
from concordant.metrics.inference import Estimate
from concordant.metrics.weak_calibration import observed_over_expected, slope

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
    is_concordance = True
    higher_is_better = True

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        return harrell_concordance(given.outcomes, given.predictions.risk)


@METRICS.register("concordance_index_ipcw")
class UnoConcordance(_Registered):
    """Uno's concordance index of `risk` over the supported times, or up to tau."""

    bounds = _UNIT
    runs_to_tau = True
    is_concordance = True
    higher_is_better = True

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the index."""
        return uno_concordance(given.outcomes, given.censoring, given.predictions.risk, given.tau)


@METRICS.register("integrated_brier_score")
class IntegratedBrier(_Registered):
    """The mean Brier score over the curves' supported times, or those before tau."""

    bounds = _UNIT
    over_curve_times = True
    runs_to_tau = True
    reads_survival = True
    higher_is_better = False

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the score."""
        times, survival = survival_curves(given.predictions)
        if given.tau is not None:
            before = times < given.tau
            if before.sum() < 2:
                starts = f"the survival curves start at {times[0]:g}"
                raise MetricError(
                    f"an integral needs two times or more before tau = {given.tau:g}; {starts}"
                )
            survival, times = survival[:, before], times[before]
        return integrated_score(given.outcomes, given.censoring, survival, times)


@METRICS.register("brier_score")
class BrierAtHorizon(_Registered):
    """The Brier score at a horizon."""

    bounds = _UNIT
    at_horizons = True
    reads_survival = True
    higher_is_better = False

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the score; curves are read at the last time not after the horizon."""
        return score_at(given.outcomes, given.censoring, given.survival, given.horizon)


@METRICS.register("cumulative_dynamic_auc")
class DynamicAUC(_Registered):
    """The cumulative/dynamic AUC of `risk` at a horizon: cases by then, controls beyond."""

    bounds = _UNIT
    at_horizons = True
    higher_is_better = True

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the AUC."""
        return area_at(given.outcomes, given.censoring, given.predictions.risk, given.horizon)


@METRICS.register("integrated_calibration_index")
class CalibrationIndex(_Registered):
    """The mean distance between predicted and observed probability at a horizon: 0 = calibrated."""

    bounds = _UNIT
    at_horizons = True
    reads_survival = True
    higher_is_better = False

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the index; it uses no censoring curve."""
        return calibration_index(given.outcomes, 1 - given.survival, given.horizon)


@METRICS.register("calibration_slope")
class Slope(_Registered):
    """The spread that predictions at a horizon should have: below 1 = too extreme."""

    at_horizons = True
    reads_survival = True

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the slope; it uses no censoring curve."""
        return slope(given.outcomes, 1 - given.survival, given.horizon)


@METRICS.register("calibration_in_the_large")
class InTheLarge(_Registered):
    """Observed over expected probability by a horizon: above 1 = too much survival promised."""

    bounds = _NOT_NEGATIVE
    at_horizons = True
    reads_survival = True

    def compute(self, given: MetricInput) -> Estimate:
        """Compute the ratio; it uses no censoring curve."""
        return observed_over_expected(given.outcomes, 1 - given.survival, given.horizon)
