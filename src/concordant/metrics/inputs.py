"""What every metric accepts: checked once here, so that the kernels can assume valid input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes

Codes = Real[np.ndarray, " subject"] | Bool[np.ndarray, " subject"]
"""Event codes as a metric takes them.

0 = censored, 1 (or True) = the event, 2 and above = competing events.
"""

OtherCohort = Outcomes | tuple[Real[np.ndarray, " other"], Codes]
"""Outcomes of another cohort: a `(time, event)` pair, or an `Outcomes`."""


_LARGEST_CODE = 2.0**53  # beyond it float64 does not tell whole numbers apart


def checked_outcomes(
    time: Real[np.ndarray, " subject"],
    event: Codes,
    *,
    weights: Real[np.ndarray, " subject"] | None = None,
    cluster: Shaped[np.ndarray, " subject"] | None = None,
    cause: int | None = None,
) -> Outcomes:
    """Check outcomes, weights and clusters.

    Args:
        time: Follow-up, > 0.
        event: 0 = censored, 1 = observed, 2 and above = competing.
        weights: Finite, >= 0, not all 0; None = 1 each.
        cluster: Labels of any kind (a subject's id where it has several scans); None = every row
            its own.
        cause: As in `Outcomes`.

    Raises:
        MetricError: Lengths differ, no row, a time that is not > 0 and finite, what is no number,
            an event code that is no whole number >= 0, a cause that is no whole number >= 1, a
            cluster without a label, a negative weight, or no weight above 0.
    """
    times, codes = numbers("time", time), real_array("event", event)
    if times.ndim != 1 or times.size == 0:
        raise MetricError(
            f"time has shape {times.shape}; expected one time per subject, at least one"
        )
    if codes.shape != times.shape:
        raise MetricError(
            f"event has shape {codes.shape}, time {times.shape}; expected one event code per time"
        )
    if bad := int((~(np.isfinite(times) & (times > 0))).sum()):
        raise MetricError(
            f"time has {bad} value(s) that are not finite and > 0; expected follow-up after the "
            "prediction time"
        )
    return Outcomes(
        times,
        _checked_codes(codes),
        np.ones(len(times), np.int32) if weights is None else _checked_weights(weights, len(times)),
        None if cluster is None else cluster_numbers(cluster, len(times)),
        _checked_cause(cause),
    )


def _checked_cause(cause: int | None) -> int | None:
    if cause is not None and not (isinstance(cause, int | np.integer) and cause >= 1):
        raise MetricError(
            f"cause is {cause!r}; expected the code of an event, a whole number of 1 or above (0 "
            "is censored)"
        )
    return cause


def other_cohort(outcomes: OtherCohort, cause: int | None) -> Outcomes:
    """Check the outcomes of another cohort, to be read by the cause of the evaluated one.

    Raises:
        MetricError: As `checked_outcomes`, or not a pair.
    """
    if isinstance(outcomes, Outcomes):
        return checked_outcomes(outcomes.time, outcomes.event, cause=cause)
    if not isinstance(outcomes, tuple | list) or len(outcomes) != 2:
        raise MetricError(
            f"censoring is a {type(outcomes).__name__}; expected the (time, event) pair of another "
            "cohort"
        )
    return checked_outcomes(*outcomes, cause=cause)


def _checked_codes(codes: Shaped[np.ndarray, " subject"]) -> Int[np.ndarray, " subject"]:
    # what most callers give, without a detour
    if codes.dtype.kind in "bi" and bool((codes >= 0).all()):
        return codes.astype(np.int64)
    values = numbers("event", codes)
    wrong = ~((values >= 0) & (values % 1 == 0) & (values < _LARGEST_CODE))  # NaN is wrong as well
    if wrong.any():
        raise MetricError(
            f"event has {int(wrong.sum())} code(s) that are NaN, negative, fractional or huge; "
            "expected 0 censored, 1 the event, 2.. competing"
        )
    return values.astype(np.int64)


def followed_for_ever(subjects: Outcomes) -> Outcomes:
    """Return subjects as ranks see them: followed for ever after a competing event."""
    competing = subjects.competing
    return (
        subjects
        if not competing.any()
        else replace(subjects, time=np.where(competing, np.inf, subjects.time))
    )


def checked_risk(risk: Real[np.ndarray, " subject"], count: int) -> Float[np.ndarray, " subject"]:
    """Check a risk, higher = earlier event.

    Raises:
        MetricError: Not one finite number per subject.
    """
    values = numbers("risk", risk)
    _check_length("risk", values, count)
    if not np.isfinite(values).all():
        raise MetricError(
            f"risk has {int((~np.isfinite(values)).sum())} value(s) that are NaN or infinite; "
            "expected finite numbers"
        )
    return values


def checked_risks(
    risks: Real[np.ndarray, "subject model"], count: int
) -> list[Float[np.ndarray, " subject"]]:
    """Check the risks of several models and return them one by one.

    Raises:
        MetricError: Not one column of finite numbers per model, or no model.
    """
    values = numbers("risks", risks)
    if values.ndim != 2 or values.shape[1] == 0:
        raise MetricError(
            f"risks have shape {values.shape}; expected (subject, model), one column per model "
            "(risk[:, None] for one)"
        )
    return [checked_risk(column, count) for column in values.T]


def checked_times(times: Real[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
    """Check the times at which something is read or computed.

    Raises:
        MetricError: Not a vector of finite, strictly ascending numbers.
    """
    grid = np.atleast_1d(numbers("times", times))
    if (
        grid.ndim != 1
        or grid.size == 0
        or not np.isfinite(grid).all()
        or bool((np.diff(grid) <= 0).any())
    ):
        raise MetricError(
            "times must be a vector of finite, strictly ascending numbers, at least one"
        )
    return grid


class Curves(NamedTuple):
    """Predicted survival: the probability of no event until each of the times."""

    times: Float[np.ndarray, " time"]
    survival: Float[np.ndarray, "subject time"]


def checked_curves(
    survival: Real[np.ndarray, "subject time"], times: Real[np.ndarray, " time"], count: int
) -> Curves:
    """Check survival curves; that they fall over time is not asked for.

    Raises:
        MetricError: Times that do not ascend, a wrong shape, or a value outside [0, 1].
    """
    grid = checked_times(times)
    curves = numbers("survival", survival)
    if curves.shape != (count, grid.size):
        raise MetricError(
            f"survival has shape {curves.shape}; expected ({count}, {grid.size}): a row per "
            "subject, a column per time"
        )
    # false for NaN; no table of flags beside the curves
    if not (curves.min() >= 0 and curves.max() <= 1):
        raise MetricError(
            "survival holds values that are NaN or outside [0, 1]; expected probabilities of no "
            "event until each time"
        )
    return Curves(grid, curves)


def checked_predicted(
    predicted: Real[np.ndarray, " subject"], count: int
) -> Float[np.ndarray, " subject"]:
    """Check probabilities of the event by a horizon.

    Raises:
        MetricError: Not one number in [0, 1] per subject.
    """
    values = numbers("predicted", predicted)
    if values.shape != (count,):
        raise MetricError(
            f"predicted has shape {values.shape}; expected ({count},), one probability per time"
        )
    wrong = ~((values >= 0) & (values <= 1))
    if bool(wrong.any()):
        raise MetricError(
            f"predicted has {int(wrong.sum())} value(s) that are NaN or outside [0, 1]; "
            "expected the probability of the event by the horizon, 1 - S(horizon)"
        )
    return values


def checked_horizon(horizon: float, name: str = "horizon") -> float:
    """Check a horizon.

    Raises:
        MetricError: Not a finite number above 0.
    """
    value = numbers(name, horizon)
    if not (value.ndim == 0 and np.isfinite(value) and value > 0):
        raise MetricError(f"{name} is {horizon}; expected a finite time > 0")
    return float(value)


def _checked_weights(weights: Any, count: int) -> Float[np.ndarray, " subject"]:
    values = numbers("weights", weights)
    _check_length("weights", values, count)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values > 0).any()):
        raise MetricError("weights must be finite and >= 0, with at least one above 0")
    return values


def cluster_numbers(
    cluster: Shaped[np.ndarray, " subject"], count: int
) -> Int[np.ndarray, " subject"]:
    """Number the clusters from 0, in sorted order of their labels.

    Raises:
        MetricError: As `checked_labels`.
    """
    return checked_labels("cluster", cluster, count).number


class Labels(NamedTuple):
    """The distinct labels of rows in sorted order, and every row's place among them."""

    distinct: Shaped[np.ndarray, " label"]
    number: Int[np.ndarray, " subject"]


def checked_labels(name: str, labels: Shaped[np.ndarray, " subject"], count: int) -> Labels:
    """Check the labels of rows and number them.

    Raises:
        MetricError: Not one label per row, a row without one (None, NaN, masked), or labels that
            cannot be sorted.
    """
    given = np.asarray(labels)
    if given.shape != (count,):
        raise MetricError(f"{name} has shape {given.shape}; expected ({count},), one label per row")
    try:
        missing = bool(np.ma.is_masked(labels)) or _has_missing(given)
        distinct, number = np.unique(given, return_inverse=True)
    except TypeError:
        raise MetricError(
            f"{name} holds labels of several kinds, or none in some rows; expected one kind, all "
            "text say"
        ) from None
    if missing:
        raise MetricError(
            f"{name} holds NaN or None in some rows; expected one label per row: leave out those "
            "rows, or label them"
        )
    return Labels(distinct, np.asarray(number, dtype=np.int64))


def _has_missing(labels: Shaped[np.ndarray, " subject"]) -> bool:
    if labels.dtype.kind == "O":
        return any(label is None or label != label for label in labels.tolist())
    # NaN and NaT differ from themselves
    return labels.dtype.kind in "fcmM" and bool((labels != labels).any())


def numbers(name: str, given: Any) -> Float[np.ndarray, ...]:
    """Return what was given as float64; text is never read as a number.

    Raises:
        MetricError: Values that are no real numbers (text, dates, complex ones), or masked.
    """
    values = real_array(name, given)
    try:
        return values.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise MetricError(
            f"{name} holds values that are no numbers; expected real numbers"
        ) from None


def real_array(name: str, given: Any) -> Shaped[np.ndarray, ...]:
    """Return what was given as an array, of whatever type of numbers.

    Raises:
        MetricError: As `numbers`, but for objects, which are not looked into except for text.
    """
    if np.ma.is_masked(given):
        raise MetricError(f"{name} has masked values; leave out those rows, or fill them in")
    try:
        values = np.asarray(given)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # rows of different lengths; a torch tensor that needs gradients
        raise MetricError(f"{name} cannot be made an array of numbers: {error}") from None
    is_text = values.dtype.kind == "O" and any(
        isinstance(value, str | bytes) for value in values.flat
    )
    if is_text or values.dtype.kind not in "biufO":
        raise MetricError(
            f"{name} holds {'text' if is_text else values.dtype} values; expected real numbers"
        )
    return values


def _check_length(name: str, values: Shaped[np.ndarray, " any"], count: int) -> None:
    if values.shape != (count,):
        raise MetricError(
            f"{name} has shape {values.shape}; expected ({count},), one value per time"
        )
