"""Axes with round ticks.

Places are percent of the axis, so that a drawing stretches with the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from concordant.report.wording import DAYS_PER_MONTH, DAYS_PER_YEAR, MINUS

_AIR = 0.04
_ROUND_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_TIME_UNITS = (
    (3 * DAYS_PER_YEAR, "years", DAYS_PER_YEAR, (1, 2, 5, 10, 20)),
    (90.0, "months", DAYS_PER_MONTH, (1, 2, 3, 6, 12)),
    (0.0, "days", 1.0, (1, 2, 5, 10, 20)),
)
"""From how many days on a unit is used, its name, its days, and the steps its ticks may have."""

DAYS_OF = {unit: length for _, unit, length, _ in _TIME_UNITS}
"""Days of each unit of a time axis."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis.

    Attributes:
        place: Percent of the axis.
        label: What stands there.
        value: The number itself.
    """

    place: float
    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis.

    Attributes:
        low: Value at 0 percent.
        high: Value at 100 percent, above `low`.
        ticks: Labelled places, ascending.
    """

    low: float
    high: float
    ticks: tuple[Tick, ...]

    def place(self, value: float) -> float:
        """Return the percent of the axis at which a value lies, kept inside the axis."""
        return _percent(value, self.low, self.high)


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """An axis of days whose ticks stand at round numbers of a unit.

    Attributes:
        axis: The axis; its values are days.
        unit: `days`, `months` or `years`: what the labels count.
    """

    axis: Axis
    unit: str


def axis_over(values: Iterable[float], *, intervals: int = 5, signed: bool = False) -> Axis:
    """Return an axis that holds all values with a little air around them, and about `intervals`
    steps between round ticks.
    """
    low, high = _range(values)
    air = _AIR * (high - low)
    return _axis(low - air, high + air, _round_step((high - low) / intervals), signed)


def axis_between_ticks(
    values: Iterable[float], *, intervals: int = 4, signed: bool = False
) -> Axis:
    """Return an axis that starts and ends at the round ticks next to the values."""
    low, high = _range(values)
    step = _round_step((high - low) / intervals)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return _axis(
        min(first * step, low), max(last * step, high), step, signed
    )  # the product may miss the value by its last bit


def time_axis(last_day: float, *, intervals: int = 5) -> TimeAxis:
    """Return an axis from 0 to exactly `last_day`, in days, months or years."""
    _, unit, length, steps = next(row for row in _TIME_UNITS if last_day >= row[0])
    step = next(
        (step for step in steps if last_day / length <= step * (intervals + 0.5)), steps[-1]
    )
    whole = range(math.floor(last_day / length / step + 0.02) + 1)
    ticks = tuple(
        Tick(_percent(one * step * length, 0.0, last_day), f"{one * step:g}", one * step * length)
        for one in whole
    )
    return TimeAxis(Axis(0.0, last_day, ticks), unit)


def _range(values: Iterable[float]) -> tuple[float, float]:
    """Return the least and the greatest value, apart by at least a thousandth."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    return min(known), max(max(known), min(known) + 1e-3)


def _axis(low: float, high: float, step: float, signed: bool) -> Axis:
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ticks = (
        Tick(_percent(number * step, low, high), _label(number * step, step, signed), number * step)
        for number in numbers
    )
    return Axis(low, high, tuple(ticks))


def _label(value: float, step: float, signed: bool) -> str:
    power = math.floor(math.log10(step) + 1e-9)
    digits = max(
        0, -power + math.isclose(step / 10.0**power, 2.5)
    )  # a step of .025 needs a digit more than one of .02
    return (
        f"{value:{'+' if signed else ''}.{digits}f}".replace("-", MINUS)
        if abs(value) > step / 2
        else "0"
    )


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 3)


def _round_step(step: float) -> float:
    scale = 10.0 ** math.floor(math.log10(step) + 1e-9)
    return next(factor * scale for factor in _ROUND_STEPS if factor * scale >= step * (1 - 1e-9))
