"""The cumulative/dynamic AUC at a time, and its mean over time, with influence functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.case_control import Ranking, ranking
from concordant.metrics.censoring import CensoringCurve, Convention, EventWeights, censoring_curve
from concordant.metrics.competing_risks import event_timeline, incidence
from concordant.metrics.inference import Band, Estimate, wald_band
from concordant.metrics.inputs import (
    Codes,
    OtherCohort,
    checked_horizon,
    checked_outcomes,
    checked_risk,
    checked_times,
    real_array,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeDependentAUC(Estimate):
    """The area under the ROC curve at one time.

    1 = every case has a higher risk than every control, 0.5 = chance.

    Attributes:
        horizon: The time.
        n_cases: Rows known to have the event by then.
        n_controls: Rows known not to have it by then.
    """

    horizon: float
    n_cases: int
    n_controls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanAUC(Estimate):
    """The mean of the area over a range of time, each time weighing as many events as it adds.

    Attributes:
        first_time: First time that enters.
        last_time: Last time that enters.
    """

    first_time: float
    last_time: float


@dataclass(frozen=True, slots=True)
class CumulativeDynamicAUC:
    """Areas under the ROC curve at the supported times, and their mean.

    Attributes:
        times: The given times at which the area is defined.
        unsupported: The given times left out.
        reasons: Why, for each of `unsupported`.
        estimate: Area at each of `times`.
        standard_error: Its standard error.
        mean: The mean over `times`.
    """

    times: Float[np.ndarray, " time"]
    unsupported: Float[np.ndarray, " left_out"]
    reasons: tuple[str, ...]
    estimate: Float[np.ndarray, " time"]
    standard_error: Float[np.ndarray, " time"]
    mean: MeanAUC

    def interval(self, level: float = 0.95) -> Band:
        """Return the pointwise confidence interval by a t quantile."""
        return wald_band(self.estimate, self.standard_error, level=level, degrees=self.mean.degrees)


def cumulative_dynamic_auc(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"] | Real[np.ndarray, "subject time"],
    times: Real[np.ndarray, " time"],
    *,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> CumulativeDynamicAUC:
    """Compute the area under the ROC curve of "event by t or not" at each time t, and its mean.

    Cases have the event at T <= t and weigh 1 / G(T-); controls have T > t; someone censored by t
    is neither. The area is the weighted share of (case, control) pairs in which the case has the
    higher risk, equal risks counting one half. The mean weighs each time by the step of 1 - S since
    the time before (the first: since S = 1), S being this cohort's Kaplan-Meier curve, and divides
    by 1 - S at the last. Takes O(n) per time; beyond the input it needs memory for n + times
    numbers.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause` see there.
        risk: Higher = earlier event; one per subject, or one per subject and time. Risks are tied
            only where they are equal.
        times: Ascending, in the unit of `time`. Left out, and listed in the result with the reason:
            times by which nobody had the event, beyond which nobody is followed, or which the
            cohort that gives the censoring curve does not reach.
        censoring: `(time, event)` of the cohort whose censoring curve is used, its rows taken as
            independent of each other and of this cohort; None = this cohort's own. The curve's
            uncertainty is in the standard error.
        pooled: With `censoring`: estimate one curve from both cohorts together.
        convention: Where an event at T reads the curve: "default" G(T-), "sksurv" G(T).
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed, pairs among them
            do not count.
        cause: None = event 1 is the event and every other code is censored. Else the code of the
            event: only code 0 is censored, and who had another event at T <= t is a control with
            weight 1 / G(T-), who is followed beyond t one with weight 1 / G(t). The mean then
            weighs by the steps of the Aalen-Johansen cumulative incidence of that cause.

    Raises:
        MetricError: Invalid outcomes, a risk of the wrong shape or not finite, times that do not
            ascend, or no supported time.

    Source: Uno et al., Journal of the American Statistical Association 102 (2007), 527-537; Hung
    and Chiang, Canadian Journal of Statistics 38 (2010), 8-26; mean: Lambert and Chevret,
    Statistical Methods in Medical Research 25 (2016), 2088-2102; competing risks: Blanche,
    Dartigues and Jacqmin-Gadda, Statistics in Medicine 32 (2013), 5381-5397, second definition of a
    control. The influence through the censoring curve is derived in `CensoringCurve.influence`.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    grid = checked_times(times)
    columns = _checked_columns(risk, len(subjects), grid)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    cohort = _cohort(subjects, curve)
    ranks = ranking(columns[0], subjects.cluster)
    mean = _RunningMean(subjects)
    reasons: dict[float, str] = {}
    for number, horizon in enumerate(grid.tolist()):
        try:
            split = _split(cohort, horizon)
            if 0 < number < len(columns):
                ranks = ranking(columns[number], subjects.cluster)
            area = _area(cohort, split, ranks, horizon)
        except _UnsupportedTimeError as unsupported:
            reasons[horizon] = unsupported.reason
        else:
            mean.add(area)
    if not mean.times:
        raise MetricError(
            f"no time is supported; at {grid[0]:g} {reasons[grid[0]]}, at {grid[-1]:g} "
            f"{reasons[grid[-1]]}"
        )
    return CumulativeDynamicAUC(
        times=np.array(mean.times),
        unsupported=np.array(list(reasons)),
        reasons=tuple(reasons.values()),
        estimate=np.array(mean.estimates),
        standard_error=np.array(mean.standard_errors),
        mean=mean.result(),
    )


def auc_at(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    risk: Real[np.ndarray, " subject"],
    horizon: float,
    *,
    censoring: OtherCohort | None = None,
    pooled: bool = False,
    convention: Convention = "default",
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> TimeDependentAUC:
    """Compute the area under the ROC curve at one time, with the influence of every subject.

    Two of them can be subtracted.

    Args:
        time: As in `cumulative_dynamic_auc`.
        event: As in `cumulative_dynamic_auc`.
        risk: Higher = earlier event.
        horizon: The time, in the unit of `time`.
        censoring: As in `cumulative_dynamic_auc`.
        pooled: As in `cumulative_dynamic_auc`.
        convention: As in `cumulative_dynamic_auc`.
        weights: As in `cumulative_dynamic_auc`.
        cluster: As in `cumulative_dynamic_auc`.
        cause: As in `cumulative_dynamic_auc`.

    Raises:
        MetricError: Invalid outcomes, a risk that is not finite, or a horizon that is not > 0 or
            not supported; the message says why.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    curve = censoring_curve(subjects, censoring, pooled=pooled, convention=convention)
    return area_at(subjects, curve, risk, horizon)


def area_at(
    subjects: Outcomes, curve: CensoringCurve, risk: Real[np.ndarray, " subject"], horizon: float
) -> TimeDependentAUC:
    """Compute `auc_at` of checked outcomes and their censoring curve."""
    values, end = checked_risk(risk, len(subjects)), checked_horizon(horizon)
    cohort = _cohort(subjects, curve)
    return _area(cohort, _split(cohort, end), ranking(values, subjects.cluster), end)


class _UnsupportedTimeError(MetricError):
    """The area is not defined at a time."""

    def __init__(self, horizon: float, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the area under the ROC curve is not defined at {horizon:g}: {reason}")


def _checked_columns(
    risk: Real[np.ndarray, " subject"] | Real[np.ndarray, "subject time"],
    count: int,
    times: Float[np.ndarray, " time"],
) -> list[Real[np.ndarray, " subject"]]:
    """Return views of the risk, not copies: one for all times, or one per time."""
    given = real_array("risk", risk)
    if given.ndim == 0 or given.ndim > 2 or (given.ndim == 2 and given.shape[1] != times.size):
        raise MetricError(
            f"risk has shape {given.shape}; expected ({count},), or ({count}, {times.size}) for a "
            "risk that changes with time"
        )
    columns = [given] if given.ndim == 1 else list(given.T)
    for column in columns:
        checked_risk(column, count)
    return columns


@dataclass(frozen=True, slots=True)
class _Cohort:
    subjects: Outcomes
    curve: CensoringCurve
    events: EventWeights
    last: float  # largest time in the cohort


def _cohort(subjects: Outcomes, curve: CensoringCurve) -> _Cohort:
    last = float(subjects.time[subjects.weights > 0].max())
    return _Cohort(subjects, curve, curve.weigh_events(subjects.time), last)


@dataclass(frozen=True, slots=True)
class _Split:
    """The two sides at a time."""

    is_case: Bool[np.ndarray, " subject"]
    amount: Float[np.ndarray, " subject"]  # what a case or a control weighs; 0 = neither
    place: Int[np.ndarray, " subject"]  # where its weight reads the censoring curve


def _split(cohort: _Cohort, horizon: float) -> _Split:
    subjects, curve = cohort.subjects, cohort.curve
    if horizon >= cohort.last:
        raise _UnsupportedTimeError(
            horizon, f"nobody is followed beyond it; follow-up ends at {cohort.last:g}"
        )
    if horizon >= curve.last:
        raise _UnsupportedTimeError(
            horizon, f"the censoring curve is not known beyond {curve.last:g}"
        )
    later = subjects.time > horizon
    known = ~(later | subjects.censored)  # the event, or a competing one, by this time
    place_now = curve.up_to(np.array([horizon]))
    amount = subjects.weights * np.where(
        known, cohort.events.inverse, later / curve.steps[place_now]
    )
    is_case = subjects.observed & known
    if not (amount[is_case] > 0).any():
        raise _UnsupportedTimeError(horizon, "nobody had the event by then")
    return _Split(is_case, amount, np.where(known, cohort.events.place, place_now))


def _area(cohort: _Cohort, split: _Split, ranks: Ranking, horizon: float) -> TimeDependentAUC:
    """Compute the area at a time; the influence is through own pairs and the censoring curve."""
    subjects = cohort.subjects
    sums = ranks.sums(split.is_case, split.amount)
    as_case = split.amount * split.is_case
    total = float(as_case @ sums.total)
    if total == 0:
        raise _UnsupportedTimeError(horizon, "no case and control are of different clusters")
    value = float(as_case @ sums.credit) / total
    pairs = split.amount * (sums.credit - value * sums.total) / total
    # A pair weighs 1 / G for each of its two rows, where that row reads the curve: hence the
    # sensitivity.
    through = cohort.curve.influence(split.place, -pairs, subjects.weights)
    return TimeDependentAUC(
        estimate=value,
        influence=pairs + through.own,
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        censoring_influence=through.other,
        horizon=horizon,
        n_cases=int((split.is_case & (split.amount > 0)).sum()),
        n_controls=int((~split.is_case & (split.amount > 0)).sum()),
    )


class _RunningMean:
    """The mean of areas that come one after the other; their influences are not kept."""

    def __init__(self, subjects: Outcomes) -> None:
        self.times: list[float] = []
        self.estimates: list[float] = []
        self.standard_errors: list[float] = []
        self._subjects = subjects
        self._incidence = incidence(event_timeline(subjects), subjects.weights)
        self._steps = self._incidence.steps
        self._reached = 0.0  # share of events by the time before
        self._value, self._influence, self._through_other = (
            0.0,
            np.zeros(len(subjects)),
            np.zeros(0),
        )

    def add(self, area: TimeDependentAUC) -> None:
        """Take in the area at the next time."""
        reached = float(
            self._steps[np.searchsorted(self._incidence.timeline.times, area.horizon, side="right")]
        )
        share, self._reached = reached - self._reached, reached
        self._value += share * area.estimate
        self._influence += share * area.influence
        self._through_other = share * area.censoring_influence + (
            self._through_other if self.times else 0.0
        )
        self.times.append(area.horizon)
        self.estimates.append(area.estimate)
        self.standard_errors.append(area.standard_error)

    def result(self) -> MeanAUC:
        """Return the mean, with its influence through the areas and through the incidence."""
        value = self._value / self._reached
        event_times = self._incidence.timeline.times
        counted = event_times[event_times <= self.times[-1]]
        by_event_time = np.zeros(len(event_times))
        area_then = np.array(self.estimates)[np.searchsorted(self.times, counted, side="left")]
        by_event_time[: len(counted)] = (area_then - value) / self._reached
        return MeanAUC(
            estimate=value,
            influence=self._influence / self._reached + self._incidence.influence(by_event_time),
            n=len(self._subjects),
            n_events=self._subjects.n_events,
            cluster=self._subjects.cluster,
            censoring_influence=self._through_other / self._reached,
            note=f"times {self.times[0]:g} to {self.times[-1]:g}",
            first_time=self.times[0],
            last_time=self.times[-1],
        )
