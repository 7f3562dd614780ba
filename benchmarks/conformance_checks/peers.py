"""Uno's concordance of a cause against packages that are no dependency.

What they gave is kept in benchmarks/conformance_peers.csv.
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import pandas as pd

from concordant import metrics
from conformance_checks.cohorts import ROOT, small
from conformance_checks.registry import COMPRISK, GREENWOOD, check, gap

STORED = ROOT / "benchmarks" / "conformance_peers.csv"
CAUSES, TAUS = (1, 2), (None, 1.0)


class Asked(NamedTuple):
    """What a package was asked, and what it gave."""

    time: np.ndarray
    event: np.ndarray
    risk: np.ndarray
    cause: int
    tau: float | None
    estimate: float

    @property
    def tied(self) -> bool:
        """True where some times are equal."""
        return len(np.unique(self.time)) < len(self.time)


def ask_greenwood(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, cause: int, tau: float | None
) -> float:
    """Return greenwood's index.

    Its codes are the levels of a categorical, numbers are read as R's 1 = censored, 2 = observed.
    """
    greenwood = importlib.import_module(GREENWOOD)
    outcome = greenwood.Surv(
        time, event=pd.Categorical.from_codes(event, categories=["censored", *map(str, CAUSES)])
    )
    return float(greenwood.concordance_index_incidence(outcome, risk, cause=cause, tau=tau))


def ask_comprisk(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, cause: int, tau: float | None
) -> float:
    """Return comprisk's index, no case left out for its weight."""
    return float(
        importlib.import_module(COMPRISK)
        .concordance_index_ci(event, time, risk, cause=cause, tau=tau, gmin="none")
        .estimate
    )


def store() -> None:
    """Ask the packages, which must be importable, and keep what they give."""
    asked = [
        [package, version(package), cohort, cause, tau or "", repr(ask(*outcomes, cause, tau))]
        for package, ask in ((COMPRISK, ask_comprisk), (GREENWOOD, ask_greenwood))
        for cohort, outcomes in enumerate(small(causes=max(CAUSES)))
        for cause in CAUSES
        for tau in TAUS
    ]
    with STORED.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["package", "version", "cohort", "cause", "tau", "estimate"], *asked]
        )


def stored_rows() -> list[dict[str, str]]:
    """Return what is kept."""
    with STORED.open(newline="") as file:
        return list(csv.DictReader(file))


def stored_versions() -> str:
    """Return the packages with the versions that were asked."""
    return ", ".join(sorted({f"{row['package']} {row['version']}" for row in stored_rows()}))


def _asked(package: str) -> Iterator[Asked]:
    cohorts = list(small(causes=max(CAUSES)))
    for row in stored_rows():
        if row["package"] == package:
            tau = float(row["tau"]) if row["tau"] else None
            yield Asked(
                *cohorts[int(row["cohort"])], int(row["cause"]), tau, float(row["estimate"])
            )


def _until(tau: float | None) -> float | None:
    return None if tau is None else float(np.nextafter(tau, np.inf))


def without_controls_censored_at_the_case(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, *, cause: int, tau: float | None
) -> float:
    """Return the index over greenwood's pairs.

    Who is censored at the time of a case is no control of it.
    """
    earlier = np.where(event == 0, np.nextafter(time, 0), time)
    return metrics.concordance_index_ipcw(
        earlier, event, risk, tau=tau, cause=cause, censoring=(time, event)
    ).estimate


def curve_that_competing_events_lower(
    time: np.ndarray, event: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outcomes of which comprisk's censoring curve is the Kaplan-Meier curve.

    Every code but 1 is censored.
    """
    return time, event == 1


@check("concordance_index_ipcw", against=GREENWOOD, quantity="estimate by cause, no tied times")
def _() -> Iterator[float]:
    for one in _asked(GREENWOOD):
        if not one.tied:
            ours = metrics.concordance_index_ipcw(
                one.time, one.event, one.risk, tau=_until(one.tau), cause=one.cause
            )
            yield gap(ours.estimate, one.estimate)


@check(
    "concordance_index_ipcw",
    against=GREENWOOD,
    quantity="estimate by cause, without controls censored at the case's time",
)
def _() -> Iterator[float]:
    for one in _asked(GREENWOOD):
        ours = without_controls_censored_at_the_case(
            one.time, one.event, one.risk, tau=_until(one.tau), cause=one.cause
        )
        yield gap(ours, one.estimate)


@check(
    "concordance_index_ipcw",
    against=COMPRISK,
    quantity="estimate by cause, no tied times, its censoring curve, no control beyond tau",
)
def _() -> Iterator[float]:
    for one in _asked(COMPRISK):
        if not one.tied:
            kept = one.time < (one.tau or np.inf)
            outcomes, curve = (
                (one.time[kept], one.event[kept]),
                curve_that_competing_events_lower(one.time, one.event),
            )
            ours = metrics.concordance_index_ipcw(
                *outcomes, one.risk[kept], cause=one.cause, censoring=curve
            )
            yield gap(ours.estimate, one.estimate)
