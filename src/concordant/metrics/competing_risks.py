"""The probability of an event by a time, competing events or not, with its influence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics.inference import Band, Estimate, critical_value
from concordant.metrics.inputs import Codes, checked_horizon, checked_outcomes


@dataclass(frozen=True, slots=True)
class EventTimeline:
    """The distinct event times of a cohort and every row's place among them.

    Any group of its rows is counted along it.

    Attributes:
        times: Distinct times of an event of any kind, ascending.
        time: Follow-up of every row.
        place: Per row, the event times up to and including its own time.
        of_cause: Per row, True where the event of interest was observed.
        of_any: Per row, True where that event or a competing one was.
    """

    times: Float[np.ndarray, " event_time"]
    time: Float[np.ndarray, " subject"]
    place: Int[np.ndarray, " subject"]
    of_cause: Bool[np.ndarray, " subject"]
    of_any: Bool[np.ndarray, " subject"]

    def until(self, horizon: float) -> Float[np.ndarray, " event_time"]:
        """Return 1 at the event times up to a horizon, 0 beyond.

        The `value` of `Incidence.influence` that gives F there.
        """
        return np.asarray(self.times <= horizon, dtype=np.float64)


def event_timeline(subjects: Outcomes) -> EventTimeline:
    """Lay out the event times of a cohort."""
    of_any = subjects.observed | subjects.competing
    times = np.unique(subjects.time[of_any])
    return EventTimeline(
        times,
        subjects.time,
        np.searchsorted(times, subjects.time, side="right"),
        subjects.observed,
        of_any,
    )


@dataclass(frozen=True, slots=True)
class Incidence:
    """Aalen-Johansen estimate of the cumulative incidence F along a timeline.

    Without competing events 1 - Kaplan-Meier.

    Attributes:
        timeline: The event times, and the rows in their places.
        weights: Weight per row; 0 = the row is not in this group.
        at_risk: Weight under observation right before each event time.
        of_cause: Weight with the event of interest at each event time.
        of_any: Weight with an event of any kind at each event time.
        event_free: Probability of no event of any kind, before the first event time, then after
            each.
        increments: What each event time adds to F.
        last: Largest time of the group.
    """

    timeline: EventTimeline
    weights: Float[np.ndarray, " subject"]
    at_risk: Float[np.ndarray, " event_time"]
    of_cause: Float[np.ndarray, " event_time"]
    of_any: Float[np.ndarray, " event_time"]
    event_free: Float[np.ndarray, " place"]
    increments: Float[np.ndarray, " event_time"]
    last: float

    @property
    def steps(self) -> Float[np.ndarray, " place"]:
        """F before the first event time, then after each."""
        summed = np.append(0.0, np.cumsum(self.increments))
        # a sum of fractions may miss 1 by rounding
        return np.asarray(np.where(self.complement == 0, 1.0, np.minimum(summed, 1.0)))

    @property
    def complement(self) -> Float[np.ndarray, " place"]:
        """1 - F before the first event time, then after each: no event yet, or a competing one."""
        competing = _over(self.event_free[:-1] * (self.of_any - self.of_cause), self.at_risk)
        return np.asarray(self.event_free + np.append(0.0, np.cumsum(competing)))

    def supports(self, time: float) -> bool:
        """Tell whether F is known at a time.

        Someone was followed until then, or nobody is left to have an event.
        """
        return time <= self.last or self.event_free[-1] == 0

    def until(self, horizon: float) -> float:
        """Return F at a horizon."""
        return float(self.steps[np.searchsorted(self.timeline.times, horizon, side="right")])

    def influence(self, value: Float[np.ndarray, " event_time"]) -> Float[np.ndarray, " subject"]:
        """Return the influence of every row on the sum of `value` times the increments of F.

        A value of 1 up to a time and 0 beyond gives F at that time; tau - t up to tau gives the
        area under F until tau.

        Source: derivative with respect to the weights of F = sum of S(t-) d1 / Y, where S = product
        of 1 - d / Y; d1 is the weight with the event of interest, d with any event and Y at risk.
        """
        later = np.cumsum((value * self.increments)[::-1])[::-1] - value * self.increments
        entering = value * _over(self.event_free[:-1], self.at_risk)
        return np.asarray(
            self.weights * self._integral(entering, -_over(later, self.at_risk - self.of_any))
        )

    def standard_errors(
        self, cluster: Int[np.ndarray, " subject"] | None
    ) -> Float[np.ndarray, " place"]:
        """Return the standard error of F before the first event time, then after each.

        NaN for a single row or cluster.

        The influence on F(t) is U(t) + (1 - F(t)) V(t), with U and V integrals up to t that no
        longer change once a row has left and that are the same for all rows still there. So three
        sums per cluster say everything: U and V of those who have left and the weight of those who
        have not. Their products, summed over clusters, change only with the rows that leave.
        """
        entering = _over(self.event_free[:-1], self.at_risk)
        hazard = _over(np.ones_like(self.at_risk), self.at_risk - self.of_any)
        nothing, complement = np.zeros_like(hazard), self.complement
        left = [self._integral(entering, -complement[1:] * hazard), self._integral(nothing, hazard)]
        staying = [self._drift(entering, -complement[1:] * hazard), self._drift(nothing, hazard)]
        change = np.column_stack([self.weights * left[0], self.weights * left[1], -self.weights])
        unit = np.arange(len(change)) if cluster is None else cluster
        moments = _moments(change, self.timeline.place, unit, len(complement))
        factors = np.column_stack(
            [np.ones_like(complement), complement, -staying[0] - complement * staying[1]]
        )
        variance = np.einsum("pa,pab,pb->p", factors, moments, factors)
        errors = np.where(self.steps == 0, 0.0, np.sqrt(np.maximum(variance, 0.0)))
        return errors if unit.max() > 0 else np.full_like(errors, np.nan)

    def _integral(
        self, by_cause: Float[np.ndarray, " event_time"], by_any: Float[np.ndarray, " event_time"]
    ) -> Float[np.ndarray, " subject"]:
        """Integrate over each row's time under observation.

        Events seen less events expected, of the cause and of any kind.
        """
        rows = self.timeline
        seen = (
            np.append(0.0, by_cause)[rows.place] * rows.of_cause
            + np.append(0.0, by_any)[rows.place] * rows.of_any
        )
        return np.asarray(seen - self._drift(by_cause, by_any)[rows.place])

    def _drift(
        self, by_cause: Float[np.ndarray, " event_time"], by_any: Float[np.ndarray, " event_time"]
    ) -> Float[np.ndarray, " place"]:
        """Return the expected part of `_integral` at every place."""
        return np.append(
            0.0, np.cumsum(_over(by_cause * self.of_cause + by_any * self.of_any, self.at_risk))
        )


def incidence(timeline: EventTimeline, weights: Real[np.ndarray, " subject"]) -> Incidence:
    """Count a group of rows along a timeline.

    At least one weight is above 0, and a row of weight 0 is not in the group.
    """
    counted = np.asarray(weights, dtype=np.float64)
    size = len(timeline.times) + 1
    present = np.bincount(timeline.place, weights=counted, minlength=size)
    at_risk = np.cumsum(present[::-1])[::-1][1:]
    of_cause = np.bincount(timeline.place, weights=counted * timeline.of_cause, minlength=size)[1:]
    of_any = np.bincount(timeline.place, weights=counted * timeline.of_any, minlength=size)[1:]
    staying = np.divide(at_risk - of_any, at_risk, out=np.ones_like(at_risk), where=at_risk > 0)
    event_free = np.append(1.0, np.cumprod(staying))
    increments = _over(event_free[:-1] * of_cause, at_risk)
    last = float(timeline.time[counted > 0].max())
    return Incidence(timeline, counted, at_risk, of_cause, of_any, event_free, increments, last)


@dataclass(frozen=True, slots=True)
class CumulativeIncidence:
    """Probability F of the event of interest by each time, competing events kept as what they are.

    Attributes:
        times: Distinct times at which someone had an event of any kind or was censored, ascending.
        estimate: F right after each of them.
        standard_error: Standard error of F by the influence function, rows of one cluster summed
            first.
        at_risk: Weight under observation right before each of them.
        n: Rows.
        n_events: Rows with the event of interest.
    """

    times: Float[np.ndarray, " time"]
    estimate: Float[np.ndarray, " time"]
    standard_error: Float[np.ndarray, " time"]
    at_risk: Float[np.ndarray, " time"]
    n: int
    n_events: int

    def at(self, time: Real[np.ndarray, " any"]) -> Float[np.ndarray, " any"]:
        """Return F(t), right-continuous; NaN beyond the follow-up."""
        steps = np.append(0.0, self.estimate)
        values = steps[np.searchsorted(self.times, time, side="right")]
        return np.asarray(np.where(np.asarray(time) <= self.times[-1], values, np.nan))

    def interval(self, level: float = 0.95) -> Band:
        """Return the pointwise interval symmetric in log(-log(1 - F)).

        0 while F is 0, NaN once F is 1.

        Without competing events it is the log(-log S) interval of the Kaplan-Meier curve.
        """
        quantile, rest = critical_value(level), 1 - self.estimate
        with np.errstate(divide="ignore", invalid="ignore"):
            width = quantile * self.standard_error / (rest * np.abs(np.log(rest)))
            low, high = 1 - rest ** np.exp(-width), 1 - rest ** np.exp(width)
        none_yet = self.estimate == 0
        return Band(np.where(none_yet, 0.0, low), np.where(none_yet, 0.0, high))


def aalen_johansen(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    *,
    cause: int = 1,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
) -> CumulativeIncidence:
    """Estimate the cumulative incidence of one cause in the presence of others.

    1 - Kaplan-Meier with competing events taken as censored answers for a world without them and
    lies above. At a tied time events leave before censorings.

    Args:
        time: Follow-up, > 0.
        event: 0 = censored, `cause` = the event of interest, any other code = a competing event.
        cause: Code of the event of interest. A cause that nobody had has incidence 0, with standard
            error 0.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.

    Raises:
        MetricError: Invalid outcomes, weights, clusters or cause.

    Source: Aalen and Johansen, Scandinavian Journal of Statistics 5 (1978), 141-150; standard
    error: infinitesimal jackknife.
    """
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    timeline = event_timeline(subjects)
    table = incidence(timeline, subjects.weights)
    counted = table.weights > 0
    times, index = np.unique(subjects.time[counted], return_inverse=True)
    at_risk = np.cumsum(np.bincount(index, weights=table.weights[counted])[::-1])[::-1]
    place = np.searchsorted(timeline.times, times, side="right")
    errors = table.standard_errors(subjects.cluster)
    return CumulativeIncidence(
        times, table.steps[place], errors[place], at_risk, len(subjects), subjects.n_events
    )


def event_probability(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    horizon: float,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> Estimate:
    """Estimate the probability of the event by one time, with its influence function.

    Args:
        time: Follow-up, > 0.
        event: 1 = observed, anything else = censored; with `cause`: 0 = censored, `cause` = the
            event, others compete with it.
        horizon: Time in the unit of `time`; an event at exactly this time counts. Nobody had the
            event by then: 0, standard error 0.
        weights: A weight of 2 equals two copies of the subject in one cluster.
        cluster: Rows with one label are one subject: their influences are summed.
        cause: None: 1 - Kaplan-Meier. A code: the Aalen-Johansen incidence of that cause.

    Raises:
        MetricError: Invalid outcomes, or a horizon that is not > 0 or lies beyond the last
            follow-up while someone is still without an event there.
    """
    checked_horizon(horizon)
    subjects = checked_outcomes(time, event, weights=weights, cluster=cluster, cause=cause)
    table = incidence(event_timeline(subjects), subjects.weights)
    check_support(table, horizon)
    return Estimate(
        estimate=table.until(horizon),
        influence=table.influence(table.timeline.until(horizon)),
        n=len(subjects),
        n_events=subjects.n_events,
        cluster=subjects.cluster,
        note=f"by {horizon:g}",
    )


def check_support(table: Incidence, horizon: float, name: str = "horizon") -> None:
    """Refuse a horizon at which the curve is not known.

    Raises:
        MetricError: Follow-up ends before the horizon, with someone still without an event.
    """
    if not table.supports(horizon):
        raise MetricError(
            f"{name} is {horizon:g}, but follow-up ends at {table.last:g}, the largest {name} "
            "supported"
        )


def _over(
    numerator: Float[np.ndarray, " any"], denominator: Float[np.ndarray, " any"]
) -> Float[np.ndarray, " any"]:
    """Divide; 0 where there is nothing to divide by."""
    return np.asarray(
        np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)
    )


def _moments(
    change: Float[np.ndarray, "subject sum"],
    place: Int[np.ndarray, " subject"],
    cluster: Int[np.ndarray, " subject"],
    places: int,
) -> Float[np.ndarray, "place sum sum"]:
    """Return the summed products of the clusters' sums at every place, as rows leave.

    Args:
        change: What a row adds to its cluster's sums as it leaves; the last of them starts at the
            cluster's weight and ends at 0.
        place: When it leaves.
        cluster: Cluster number per row.
        places: Number of places.
    """
    order = np.lexsort((place, cluster))
    steps, label = change[order], cluster[order]
    first = np.flatnonzero(np.append(True, np.diff(label) > 0))
    running = np.cumsum(steps, axis=0)
    start = (running - steps)[first]  # what the clusters before have added
    start[:, -1] += np.add.reduceat(steps[:, -1], first)  # minus the cluster's weight
    after = running - np.repeat(start, np.diff(np.append(first, len(label))), axis=0)
    before = after - steps
    moments = np.zeros((places, change.shape[1], change.shape[1]))
    np.add.at(
        moments,
        place[order],
        after[:, :, None] * after[:, None, :] - before[:, :, None] * before[:, None, :],
    )
    weight = before[first, -1]
    moments[0, -1, -1] += weight @ weight
    return np.cumsum(moments, axis=0)
