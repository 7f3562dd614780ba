"""Do the tests keep their level and the intervals their coverage? Two thousand cohorts in every
run, ten thousand in the slow one.

The quick bounds are wider by one binomial standard deviation: a correct implementation passes
whatever the seed, one whose standard error is 20 % off in either direction (rejecting 1.9 % or 10
%, covering 98 % or 88 %) does not.
"""

from __future__ import annotations

import numpy as np
import pytest

from concordant.metrics import (
    brier_score_at,
    compare_concordance,
    concordance_covariance,
    concordance_index,
    concordance_index_ipcw,
    holm,
)
from simulation_fixture import (
    AGAINST_FIRST,
    ALPHA,
    CELLS,
    CONTRASTS,
    COVERAGE,
    LEVEL,
    known_curve_error,
    noisy,
    reversing,
)

QUICK = 2_000


def within(share, bounds, replicates):
    slack = 0 if replicates >= 10_000 else np.sqrt(0.05 * 0.95 / replicates)
    return bounds[0] - slack < share < bounds[1] + slack


def check_level(cell, replicates, seed):
    generator = np.random.default_rng(seed)
    rejected = 0
    for _ in range(replicates):
        sample = cell.cohort(generator)
        risks = noisy(sample.signal, generator), noisy(sample.signal, generator)
        rejected += compare_concordance(sample.time, sample.event, *risks).p_value < ALPHA
    assert within(rejected / replicates, LEVEL, replicates)


def check_coverage(cell, replicates, seed):
    generator = np.random.default_rng(seed)
    seen, whole = cell.cohort(generator, 400_000), cell.uncensored(generator, 400_000)
    harrell_limit = concordance_index(seen.time, seen.event, noisy(seen.signal, generator)).estimate
    tau = np.quantile(seen.time, 0.9)
    uno_limit = concordance_index(
        whole.time, whole.time < tau, noisy(whole.signal, generator)
    ).estimate
    covered = np.zeros(2)
    for _ in range(replicates):
        sample = cell.cohort(generator)
        risk = noisy(sample.signal, generator)
        harrell = concordance_index(sample.time, sample.event, risk).interval()
        uno = concordance_index_ipcw(sample.time, sample.event, risk, tau=tau).interval()
        covered += [harrell.low < harrell_limit < harrell.high, uno.low < uno_limit < uno.high]
    assert within(covered[0] / replicates, COVERAGE, replicates)
    assert within(covered[1] / replicates, COVERAGE, replicates)


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
    false_claims = 0
    for _ in range(10_000):
        sample = CELLS[0].cohort(generator)
        risks = np.column_stack([noisy(sample.signal, generator) for _ in range(CONTRASTS + 1)])
        joint = concordance_covariance(sample.time, sample.event, risks)
        p_values = np.array([joint.contrast(row).p_value for row in AGAINST_FIRST])
        false_claims += holm(p_values).min() < ALPHA
    assert false_claims / 10_000 <= 0.055


def test_standard_error_knows_of_the_censoring_curve_where_an_effect_reverses():
    generator = np.random.default_rng(6)
    found = []
    for _ in range(QUICK):
        sample = reversing(generator)
        whole = concordance_index_ipcw(sample.time, sample.event, sample.signal, tau=2.0)
        fixed = concordance_index_ipcw(
            sample.time, sample.event, sample.signal, tau=2.0, censoring=(sample.time, sample.event)
        )
        found.append((whole.estimate, whole.standard_error, known_curve_error(fixed)))
    estimates, whole_errors, fixed_errors = np.array(found).T
    spread = estimates.std(ddof=1)
    assert whole_errors.mean() / spread == pytest.approx(
        1, abs=0.06
    )  # the spread itself is known to 1.6 %
    assert fixed_errors.mean() / whole_errors.mean() > 1.05


def test_standard_error_with_another_cohorts_curve():
    generator = np.random.default_rng(7)
    found = []
    for _ in range(QUICK):
        sample, other = CELLS[2].cohort(generator), CELLS[2].cohort(generator, 100)
        risk = noisy(sample.signal, generator)
        result = concordance_index_ipcw(
            sample.time, sample.event, risk, tau=0.6, censoring=(other.time, other.event)
        )
        found.append((result.estimate, result.standard_error))
    estimates, errors = np.array(found).T
    assert errors.mean() / estimates.std(ddof=1) == pytest.approx(1, abs=0.06)


def test_brier_standard_error_is_too_large_without_the_censoring_curves_part():
    generator = np.random.default_rng(8)
    found = []
    for _ in range(QUICK):
        sample = CELLS[2].cohort(generator)
        survival = np.exp(-np.exp(sample.signal) * 0.7)
        whole = brier_score_at(sample.time, sample.event, survival, 0.7)
        fixed = brier_score_at(
            sample.time, sample.event, survival, 0.7, censoring=(sample.time, sample.event)
        )
        found.append((whole.estimate, whole.standard_error, known_curve_error(fixed)))
    estimates, whole_errors, fixed_errors = np.array(found).T
    assert whole_errors.mean() / estimates.std(ddof=1) == pytest.approx(1, abs=0.06)
    assert fixed_errors.mean() / whole_errors.mean() > 1.05
