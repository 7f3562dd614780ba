"""The designs of the simulation study of `concordant.metrics`, for the tests and for
benchmarks/inference_study.py.

Cohorts have 200 subjects with log-hazard x, standard normal; a model's risk is x plus independent
standard normal noise. Censoring times are exponential, for 30 % or 60 % of the subjects censored;
with ties both times are rounded up to multiples of 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from concordant.metrics import Estimate

N = 200
CENSORING_RATE = {
    0.3: 0.35,
    0.6: 1.72,
}  # of the exponential censoring time, for this share of censored subjects
TICK = 0.2
ALPHA = 0.05
CONTRASTS = 12
AGAINST_FIRST = np.column_stack([-np.ones(CONTRASTS), np.eye(CONTRASTS)])
LEVEL, COVERAGE = (
    (0.035, 0.065),
    (0.93, 0.97),
)  # bounds of a correct implementation over 10,000 cohorts


@dataclass(frozen=True, slots=True)
class Sample:
    """Follow-up, event (1 = observed) and the log-hazard of each subject."""

    time: np.ndarray
    event: np.ndarray
    signal: np.ndarray


@dataclass(frozen=True, slots=True)
class Cell:
    """One design: a share of censored subjects, with or without ties."""

    censored: float
    ties: bool

    def cohort(self, generator: np.random.Generator, n: int = N) -> Sample:
        """Draw a cohort as it is observed."""
        signal, event_time = self._complete(generator, n)
        censoring_time = self._rounded(
            generator.exponential(1 / CENSORING_RATE[self.censored], size=n)
        )
        return Sample(
            np.minimum(event_time, censoring_time),
            (event_time <= censoring_time).astype(np.int64),
            signal,
        )

    def uncensored(self, generator: np.random.Generator, n: int = N) -> Sample:
        """Draw a cohort whose every event is observed."""
        signal, event_time = self._complete(generator, n)
        return Sample(event_time, np.ones(n, np.int64), signal)

    def _complete(self, generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        signal = generator.normal(size=n)
        return signal, self._rounded(generator.exponential(np.exp(-signal)))

    def _rounded(self, time: np.ndarray) -> np.ndarray:
        return np.ceil(time / TICK) * TICK if self.ties else time


CELLS = [Cell(censored, ties) for censored in CENSORING_RATE for ties in (False, True)]


def noisy(signal: np.ndarray, generator: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    """Return a model's risk: the log-hazard and normal noise."""
    return signal + scale * generator.normal(size=len(signal))


def reversing(generator: np.random.Generator, n: int = N, *, uncensored: bool = False) -> Sample:
    """Return a cohort in which the risk is right until 0.5 and wrong afterwards."""
    risk = generator.normal(size=n)
    early = generator.exponential(np.exp(-1.5 * risk))
    time = np.where(early < 0.5, early, 0.5 + generator.exponential(np.exp(1.5 * risk)))
    if uncensored:
        return Sample(time, np.ones(n, np.int64), risk)
    end = generator.exponential(1.2, size=n)
    return Sample(np.minimum(time, end), (time <= end).astype(np.int64), risk)


def known_curve_error(result: Estimate) -> float:
    """Return the standard error without the curve's part.

    The curve was given as another cohort's, so that part stands apart.
    """
    return float(np.sqrt(np.square(result.influence).sum()))
