"""Do the tests keep their level and the intervals their coverage? Two thousand cohorts in every run, ten thousand in the slow one.

The quick bounds are wider by one binomial standard deviation: a correct implementation passes whatever the seed, one whose standard
error is 20 % off in either direction (rejecting 1.9 % or 10 %, covering 98 % or 88 %) does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from concordant.core.survival import SurvivalTarget
from concordant.metrics import (
    brier_score_at,
    compare_concordance,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
    holm,
)

N = 200
QUICK = 2_000
CENSORING_RATE = {0.3: 0.35, 0.6: 1.72}  # of an exponential censoring time, for this share of censored subjects


@dataclass(frozen=True)
class Cell:
    censored: float
    ties: bool

    def cohort(self, generator, n=N, *, observe_all=False):
        signal = generator.normal(size=n)
        event_time = generator.exponential(np.exp(-signal))
        censoring_time = generator.exponential(1 / CENSORING_RATE[self.censored], size=n)
        if self.ties:
            event_time, censoring_time = np.ceil(event_time * 5) / 5, np.ceil(censoring_time * 5) / 5
        if observe_all:
            return event_time, np.ones(n, np.int64), signal
        return np.minimum(event_time, censoring_time), (event_time <= censoring_time).astype(np.int64), signal


CELLS = [Cell(censored, ties) for censored in (0.3, 0.6) for ties in (False, True)]


def noisy(signal, generator):
    return signal + generator.normal(size=len(signal))


def bounds(low, high, replicates):
    slack = 0 if replicates >= 10_000 else np.sqrt(0.05 * 0.95 / replicates)
    return low - slack, high + slack


def check_level(cell, replicates, seed):
    generator = np.random.default_rng(seed)
    rejected = 0
    for _ in range(replicates):
        time, event, signal = cell.cohort(generator)
        rejected += compare_concordance(time, event, noisy(signal, generator), noisy(signal, generator)).p_value < 0.05
    low, high = bounds(0.035, 0.065, replicates)
    assert low < rejected / replicates < high


def check_coverage(cell, replicates, seed):
    generator = np.random.default_rng(seed)
    time, event, signal = cell.cohort(generator, 400_000)
    harrell_limit = concordance_index(time, event, noisy(signal, generator)).estimate
    tau = np.quantile(time, 0.9)
    full_time, _, signal = cell.cohort(generator, 400_000, observe_all=True)
    uno_limit = concordance_index(full_time, full_time < tau, noisy(signal, generator)).estimate
    covered = np.zeros(2)
    for _ in range(replicates):
        time, event, signal = cell.cohort(generator)
        risk = noisy(signal, generator)
        harrell = concordance_index(time, event, risk).interval()
        uno = concordance_index_ipcw(time, event, risk, tau=tau).interval()
        covered += [harrell.low < harrell_limit < harrell.high, uno.low < uno_limit < uno.high]
    low, high = bounds(0.93, 0.97, replicates)
    assert low < covered[0] / replicates < high
    assert low < covered[1] / replicates < high


@pytest.mark.parametrize("cell", CELLS[::3], ids=str)
def test_paired_test_keeps_its_level(cell):
    check_level(cell, QUICK, seed=1)


@pytest.mark.parametrize("cell", CELLS[1:3], ids=str)
def test_intervals_cover_their_limit(cell):
    check_coverage(cell, QUICK, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_level_and_coverage_in_full(cell):
    check_level(cell, 10_000, seed=3)
    check_coverage(cell, 10_000, seed=4)


@pytest.mark.slow
def test_holm_keeps_the_family_wise_error_with_a_shared_reference():
    generator = np.random.default_rng(5)
    against_first = np.column_stack([-np.ones(12), np.eye(12)])
    false_claims = 0
    for _ in range(10_000):
        time, event, signal = CELLS[0].cohort(generator)
        joint = concordance_covariance(time, event, np.column_stack([noisy(signal, generator) for _ in range(13)]))
        p_values = np.array([joint.contrast(row).p_value for row in against_first])
        false_claims += holm(p_values).min() < 0.05
    assert false_claims / 10_000 <= 0.055


def reversing(generator, n):
    """A risk that is right early and wrong late."""
    risk = generator.normal(size=n)
    early = generator.exponential(np.exp(-1.5 * risk))
    time = np.where(early < 0.5, early, 0.5 + generator.exponential(np.exp(1.5 * risk)))
    censored = generator.exponential(1.2, size=n)
    return np.minimum(time, censored), (time <= censored).astype(np.int64), risk


def test_standard_error_knows_of_the_censoring_curve_where_an_effect_reverses():
    generator = np.random.default_rng(6)
    found = []
    for _ in range(QUICK):
        time, event, risk = reversing(generator, N)
        whole = concordance_index_ipcw(time, event, risk, tau=2.0)
        fixed = concordance_index_ipcw(time, event, risk, tau=2.0, censoring=SurvivalTarget(time, event))
        found.append((whole.estimate, whole.standard_error, np.sqrt((fixed.influence**2).sum())))
    estimates, whole_errors, fixed_errors = np.array(found).T
    spread = estimates.std(ddof=1)
    assert whole_errors.mean() / spread == pytest.approx(1, abs=0.06)  # the spread itself is known to 1.6 %
    assert fixed_errors.mean() / whole_errors.mean() > 1.05


def test_standard_error_with_another_cohorts_curve():
    generator = np.random.default_rng(7)
    found = []
    for _ in range(QUICK):
        time, event, signal = CELLS[2].cohort(generator)
        other = SurvivalTarget(*CELLS[2].cohort(generator, 100)[:2])
        result = concordance_index_ipcw(time, event, noisy(signal, generator), tau=0.6, censoring=other)
        found.append((result.estimate, result.standard_error))
    estimates, errors = np.array(found).T
    assert errors.mean() / estimates.std(ddof=1) == pytest.approx(1, abs=0.06)


def test_brier_standard_error_is_too_large_without_the_censoring_curves_part():
    generator = np.random.default_rng(8)
    found = []
    for _ in range(QUICK):
        time, event, signal = CELLS[2].cohort(generator)
        survival = np.exp(-np.exp(signal) * 0.7)
        whole = brier_score_at(time, event, survival, 0.7)
        fixed = brier_score_at(time, event, survival, 0.7, censoring=(time, event))
        found.append((whole.estimate, whole.standard_error, np.sqrt((fixed.influence**2).sum())))
    estimates, whole_errors, fixed_errors = np.array(found).T
    assert whole_errors.mean() / estimates.std(ddof=1) == pytest.approx(1, abs=0.06)
    assert fixed_errors.mean() / whole_errors.mean() > 1.05
