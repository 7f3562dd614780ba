"""How predictions are judged: one value, checked once, that all of an evaluation takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict, get_args

from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.survival import Outcomes, Predictions
from concordant.metrics import METRICS, MetricInput

CensoringSource = Literal["cohort", "train", "pooled"]
"""Whose censoring curve a metric weighs by.

The evaluated cohort's, train's, or one of both together.
"""

Multiplicity = Literal["holm", "benjamini_hochberg", "max_t"]
"""How the p-values of a family are adjusted: `holm` and `max_t` bound the chance of any false
finding in the family, `max_t` by the joint distribution of its tests (sharper, and with
simultaneous intervals); `benjamini_hochberg` bounds the share of false findings."""


class Measure(NamedTuple):
    """A metric, at a horizon where it has one."""

    metric: str
    horizon_days: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProtocol:
    """How predictions are judged.

    Attributes:
        metrics: Names from `METRICS`.
        horizons_days: Horizons of the metrics, and of what else is told of a probability, that have
            one value per horizon.
        censoring: Whose censoring curve the weighted metrics use.
        train: Outcomes of train, for `censoring` "train" and "pooled".
        tau: Days up to which Uno's C and the integrated Brier score run; None = all that each
            cohort supports. One that is not supported is no error: the metric runs up to what is,
            and the note says so.
        cause: Code of the event of interest, with which every other code above 0 competes; None =
            event 1, every other code censored. 1 - survival is then read as its cumulative
            incidence. Calibration slope and index, which have no such form, are null.
        multiplicity: How p-values are adjusted within a family; "max_t" also gives simultaneous 95
            % intervals.
        margin: The smallest difference that would matter: differences are also tested for not being
            worse by it (non-inferiority), and for lying within it (equivalence). None = no such
            tests.
        margin_for_all: Whether the margin is in the units of every metric; else only the
            concordance indices are tested against it.
        test_train_ratio: Rows of a fold's test part over those of its train part: gives the
            Nadeau-Bengio p-value beside the others, which takes folds, not subjects, as the units
            and lets for training again on other data. None = it is not computed.
        gain_over_both: Whether every fusion is tested for being better than both of its unimodal
            models.

    Raises:
        ConfigError: An unknown metric, censoring source or multiplicity, a metric at horizons
            without any, no `train` where it is needed, a tau or margin that is not finite and > 0,
            or a cause below 1.
    """

    metrics: Sequence[str] = ("concordance_index", "integrated_brier_score")
    horizons_days: Sequence[float] = ()
    censoring: CensoringSource = "cohort"
    train: Outcomes | None = None
    tau: float | None = None
    cause: int | None = None
    multiplicity: Multiplicity = "holm"
    margin: float | None = None
    margin_for_all: bool = False
    test_train_ratio: float | None = None
    gain_over_both: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be done, before anything is computed."""
        measures(self.metrics, self.horizons_days)
        _check_choice("censoring source", self.censoring, get_args(CensoringSource))
        _check_choice("multiplicity", self.multiplicity, get_args(Multiplicity))
        _check_positive("tau", self.tau, "a number of days > 0")
        _check_positive(
            "margin",
            self.margin,
            "a number > 0, the smallest difference that would matter, such as 0.02",
        )
        if self.censoring != "cohort" and self.train is None:
            raise ConfigError(
                f"censoring {self.censoring!r} needs train's outcomes; give `train`, or censoring "
                "'cohort'"
            )
        if self.cause is not None and self.cause < 1:
            raise ConfigError(
                f"cause is {self.cause}; expected the code of an event, 1 or above (0 is censored)"
            )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is computed: every metric, those at horizons once per horizon."""
        return measures(self.metrics, self.horizons_days)

    def of_rows(self, predictions: Predictions, horizon_days: float | None) -> MetricInput:
        """Return what a metric at a horizon is computed from, the rows taken as one cohort."""
        return MetricInput(
            predictions,
            cause=self.cause,
            horizon_days=horizon_days,
            tau=self.tau,
            other=None if self.censoring == "cohort" else self.train,
            pooled=self.censoring == "pooled",
        )


class ProtocolOptions(TypedDict, total=False):
    """The attributes of `EvaluationProtocol`, as keyword arguments."""

    metrics: Sequence[str]
    horizons_days: Sequence[float]
    censoring: CensoringSource
    train: Outcomes | None
    tau: float | None
    cause: int | None
    multiplicity: Multiplicity
    margin: float | None
    margin_for_all: bool
    test_train_ratio: float | None
    gain_over_both: bool


def measures(metrics: Sequence[str], horizons_days: Sequence[float] = ()) -> tuple[Measure, ...]:
    """Return what is to be computed: every metric, those at horizons once per horizon.

    Raises:
        ConfigError: An unknown metric, or a metric at horizons without any.
    """
    listed: list[Measure] = []
    for metric in metrics:
        if not METRICS.get(metric).at_horizons:
            listed.append(Measure(metric, None))
        elif horizons_days:
            listed += [Measure(metric, float(days)) for days in horizons_days]
        else:
            raise ConfigError(
                f"{metric} is computed at horizons; give the days (horizons_days, --horizon, "
                "task.horizons_days of a study)"
            )
    return tuple(listed)


def _check_choice(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ConfigError(f"unknown {what} {given!r}.{did_you_mean(given, known)}")


def _check_positive(name: str, given: float | None, expected: str) -> None:
    if given is not None and not (math.isfinite(given) and given > 0):
        raise ConfigError(f"{name} is {given}; expected {expected}")
