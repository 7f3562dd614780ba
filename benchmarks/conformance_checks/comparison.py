"""Comparisons of models, families of tests and the bootstrap."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
from scipy import stats

from concordant import metrics
from conformance_checks.cohorts import columns, golden, simulated
from conformance_checks.registry import ALGEBRA, LOOP, SCIPY, R, check, gap


@check(
    "concordance_covariance",
    "compare_concordance",
    "subtract",
    against=R,
    quantity="estimates, covariance, difference and its error",
)
def _() -> Iterator[float]:
    time, status, first, second = columns("paired_lung")
    event, expected = status.astype(int), golden()["paired_lung"]
    joint = metrics.concordance_covariance(time, event, np.column_stack([first, second]))
    yield gap(joint.estimate, expected["C"])
    yield gap(joint.covariance, expected["vcov"])
    direct = metrics.compare_concordance(time, event, second, first)
    both = [metrics.concordance_index(time, event, risk) for risk in (second, first)]
    for difference in (joint.contrast(np.array([-1.0, 1.0])), direct, metrics.subtract(*both)):
        yield gap(
            [difference.difference, difference.standard_error],
            [expected["diff"], expected["se_diff"]],
        )


def _differences() -> list[metrics.Difference]:
    time, event, signal = simulated(3, 200)
    risks = signal[:, None] + np.random.default_rng(3).normal(size=(200, 5))
    joint = metrics.concordance_covariance(time, event, risks)
    return [joint.contrast(np.eye(5)[k] - np.eye(5)[0]) for k in range(1, 5)]


@check("joint_covariance", "average_over_seeds", against=ALGEBRA)
def _() -> Iterator[float]:
    family = _differences()
    table = np.array([[float(a.influence @ b.influence) for b in family] for a in family])
    yield gap(metrics.joint_covariance(family), table)
    average = metrics.average_over_seeds(family)
    yield gap(average.estimate, np.mean([one.difference for one in family]))
    yield gap(average.standard_error, np.sqrt(table.mean()))


@check("equivalence", "non_inferiority", "gain_over_both", against=SCIPY, quantity="p-values")
def _() -> Iterator[float]:
    first, second, *_ = _differences()
    difference, error = first.difference, first.standard_error
    below, above = (
        stats.t.sf((0.03 + difference) / error, 199),
        stats.t.sf((0.03 - difference) / error, 199),
    )
    yield gap(metrics.equivalence(first, 0.03).p_value, max(below, above))
    yield gap(metrics.non_inferiority(first, 0.03).p_value, below)
    both = [stats.t.sf(one.difference / one.standard_error, 199) for one in (first, second)]
    yield gap(metrics.gain_over_both(first, second).p_value, max(both))


@check("holm", "benjamini_hochberg", against=LOOP)
def _() -> Iterator[float]:
    for seed in range(20):
        p = np.random.default_rng(seed).uniform(0, 0.3, 12).round(2)
        order = np.argsort(p)
        steps = [min(1.0, max((12 - j) * p[order[j]] for j in range(k + 1))) for k in range(12)]
        yield gap(metrics.holm(p)[order], steps)
        yield gap(metrics.benjamini_hochberg(p), stats.false_discovery_control(p))


@check(
    "simultaneous",
    against=SCIPY,
    quantity="critical value: independent (Sidak), all pairs of means (Tukey)",
    tolerance=0.02,
)
def _() -> Iterator[float]:
    for count in (2, 5, 12):
        ours = metrics.simultaneous(np.zeros(count), np.eye(count)).critical_value
        yield gap(ours, stats.norm.ppf(0.5 + 0.95 ** (1 / count) / 2))
    for count in (3, 5):
        pairs = np.array(
            [np.eye(count)[i] - np.eye(count)[j] for i in range(count) for j in range(i)]
        )
        ours = metrics.simultaneous(
            np.zeros(len(pairs)), pairs @ pairs.T, degrees=30
        ).critical_value
        yield gap(ours, stats.studentized_range.ppf(0.95, count, 30) / np.sqrt(2))


@check("simultaneous_differences", against="simultaneous", quantity="critical value and p-values")
def _() -> Iterator[float]:
    family = _differences()
    ours = metrics.simultaneous_differences(family)
    values = np.array([one.difference for one in family])
    theirs = metrics.simultaneous(values, metrics.joint_covariance(family), degrees=199)
    yield gap([ours.critical_value, *ours.p_value], [theirs.critical_value, *theirs.p_value])


@check("nadeau_bengio", against=SCIPY, quantity="p-value")
def _() -> Iterator[float]:
    values = np.random.default_rng(0).normal(0.02, 0.03, (10, 5))
    error = np.sqrt(values.var(ddof=1) * (1 / 50 + 0.25))
    yield gap(
        metrics.nadeau_bengio(values, 0.25).p_value, 2 * stats.t.sf(abs(values.mean() / error), 49)
    )


@check(
    "bootstrap_concordance",
    "bootstrap",
    "resamples",
    against="concordance_index",
    quantity="every replicate",
)
def _() -> Iterator[float]:
    time, event, signal = simulated(4, 100, ties=True)
    risks = signal[:, None] + np.random.default_rng(4).normal(size=(100, 2)).round(1)
    draws = metrics.resamples(100, replicates=100, seed=1)
    slow = [
        [metrics.concordance_index(time, event, risk, weights=draw).estimate for risk in risks.T]
        for draw in draws
    ]
    yield gap(
        metrics.bootstrap_concordance(time, event, risks, replicates=100, seed=1).replicates, slow
    )

    def both(weights: np.ndarray) -> np.ndarray:
        return metrics.concordance_covariance(time, event, risks, weights=weights).estimate

    yield gap(metrics.bootstrap(both, 100, replicates=100, seed=1).replicates, slow)


@check(
    "bootstrap",
    against=SCIPY,
    quantity="BCa interval of a mean on the same replicates",
    tolerance=1e-9,
)
def _() -> Iterator[float]:
    for seed in range(5):
        values = np.random.default_rng(seed).lognormal(size=40)

        def mean(weights: np.ndarray, values: np.ndarray = values) -> float:
            return float(weights @ values / weights.sum())

        ours = metrics.bootstrap(mean, 40, replicates=1000, jackknife=True, seed=seed)
        given = SimpleNamespace(bootstrap_distribution=ours.replicates)
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=0, method="BCa", bootstrap_result=given
        ).confidence_interval
        yield gap(ours.interval(method="bca"), theirs)
