from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics.antolini import concordance_index_antolini
from concordant.metrics.concordance import concordance_index
from concordant.metrics.inference import subtract

METHODS = ["harrell", "antolini", "adj_antolini"]
FEW = settings(max_examples=40, deadline=None, derandomize=True)


def cohort(seed, n=50, columns=4, *, ties=True, competing=False):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.5, size=n)
    event = (time <= censored).astype(np.int64)
    if competing:
        event[generator.uniform(size=n) < 0.3] = 2
    time = np.minimum(time, censored) + 0.05
    times = (
        np.arange(1, columns + 1) * 2 / columns
    )  # with ties also times at which someone's follow-up ends
    hazard = np.exp(signal + generator.normal(size=n))
    survival = np.exp(
        -hazard[:, None] * times ** generator.uniform(0.5, 2, (n, 1))
    )  # curves that cross
    if ties:
        time, survival = np.ceil(time * 6) / 6, survival.round(1)
    return time, event, survival, times


def slow_antolini(
    time, event, survival, times, *, method="harrell", steps="post", weights=None, cluster=None
):
    """Every ordered pair, one at a time; a code of 2 is a control for ever."""
    n = len(time)
    time = np.where(event == 2, np.inf, time)
    w = np.ones(n) if weights is None else weights
    if (survival[:, 0] == 1).all() and len(times) > 1:
        survival, times = survival[:, 1:], times[1:]
    credit, total, count = np.zeros(n), np.zeros(n), 0
    for i in range(n):
        for j in range(n):
            if i == j or (cluster is not None and cluster[i] == cluster[j]):
                continue
            c = pair_credit(i, j, time, event == 1, survival, times, method, steps)
            if c is None:
                continue
            count += 1
            for k in (i, j):
                credit[k] += w[i] * w[j] * c
                total[k] += w[i] * w[j]
    estimate = credit.sum() / total.sum()
    return estimate, 2 * (credit - estimate * total) / total.sum(), count


def pair_credit(i, j, time, observed, survival, times, method, steps):
    before, after = np.flatnonzero(times <= time[i]), np.flatnonzero(times >= time[i])
    column = (
        (before[-1] if before.size else 0) if steps == "post" else (after[0] if after.size else -1)
    )
    mine, other = survival[i, column], survival[j, column]
    tied = {"harrell": 0.5, "antolini": 0.0, "adj_antolini": 0.5}[method]
    harrell = observed[i] and (time[i] < time[j] or (time[i] == time[j] and not observed[j]))
    if harrell:
        return 1.0 if mine < other else tied if mine == other else 0.0
    if method == "adj_antolini" and time[i] == time[j] and observed[j]:
        if observed[i]:
            return 1.0 if mine == other else 0.5
        return (
            1.0 if mine > other else tied if mine == other else 0.0
        )  # the same pair, met in its other order
    return None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", ["post", "pre"])
@pytest.mark.parametrize(
    "kind", ["plain", "weighted", "clustered", "weighted and clustered", "competing", "no ties"]
)
def test_equals_the_pairwise_definition(method, steps, kind):
    for seed in range(3):
        time, event, survival, times = cohort(
            seed, ties=kind != "no ties", competing=kind == "competing"
        )
        generator = np.random.default_rng(seed + 100)
        weights = generator.uniform(0.2, 3, len(time)) if "weighted" in kind else None
        cluster = generator.integers(0, 12, len(time)) if "clustered" in kind else None
        cause = 1 if kind == "competing" else None
        result = concordance_index_antolini(
            time,
            event,
            survival,
            times,
            method=method,
            steps=steps,
            weights=weights,
            cluster=cluster,
            cause=cause,
        )
        estimate, influence, count = slow_antolini(
            time,
            event,
            survival,
            times,
            method=method,
            steps=steps,
            weights=weights,
            cluster=cluster,
        )
        np.testing.assert_allclose(result.estimate, estimate, rtol=0, atol=1e-14)
        np.testing.assert_allclose(result.influence, influence, rtol=0, atol=1e-14)
        assert result.n_pairs == count
        grouped = influence if cluster is None else np.bincount(cluster, weights=influence)
        np.testing.assert_allclose(result.standard_error, np.sqrt(grouped @ grouped), rtol=1e-12)
        assert abs(result.influence.sum()) < 1e-13


@pytest.mark.parametrize("method", METHODS)
def test_influence_is_the_derivative_by_the_weights(method):
    time, event, survival, times = cohort(3, n=30, competing=True)
    weights = np.random.default_rng(2).uniform(0.5, 2, len(time))

    def value(w):
        return concordance_index_antolini(
            time, event, survival, times, method=method, weights=w, cause=1
        ).estimate

    result = concordance_index_antolini(
        time, event, survival, times, method=method, weights=weights, cause=1
    )
    step = 1e-5
    for k in range(len(time)):
        up, down = weights.copy(), weights.copy()
        up[k] += step
        down[k] -= step
        assert result.influence[k] == pytest.approx(
            weights[k] * (value(up) - value(down)) / (2 * step), abs=1e-9
        )


@pytest.mark.parametrize("method", METHODS)
def test_standard_error_is_near_the_leave_one_out_jackknife(method):
    time, event, survival, times = cohort(4, n=120, columns=20)
    n = len(time)
    left_out = []
    for k in range(n):
        rows = np.delete(np.arange(n), k)
        left_out.append(
            concordance_index_antolini(
                time[rows], event[rows], survival[rows], times, method=method
            ).estimate
        )
    jackknife = np.sqrt((n - 1) / n * np.square(left_out - np.mean(left_out)).sum())
    result = concordance_index_antolini(time, event, survival, times, method=method)
    assert result.standard_error / jackknife == pytest.approx(0.985, abs=0.025)


@pytest.mark.parametrize("ties", [False, True])
def test_proportional_hazards_give_harrells_c(ties):
    """Curves of proportional hazards that do not saturate rank alike at every time."""
    generator = np.random.default_rng(5)
    signal = generator.normal(size=200)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.5, size=200)
    event, time = (time <= censored).astype(np.int64), np.minimum(time, censored)
    risk = signal + generator.normal(size=200)
    if ties:
        time, risk = np.ceil(time * 5) / 5, risk.round(1)
    harrell = concordance_index(time, event, risk)
    times = np.unique(time)
    levels, level = np.unique(
        risk, return_inverse=True
    )  # so that equal risks have equal curves to the last bit
    survival = np.exp(-np.outer(np.exp(levels), times) / 100)[level]
    for steps in ("post", "pre"):
        result = concordance_index_antolini(time, event, survival, times, steps=steps)
        assert result.estimate == harrell.estimate
        np.testing.assert_allclose(result.influence, harrell.influence, rtol=0, atol=1e-15)
        assert (result.n_pairs, result.n_times) == (harrell.n_pairs, len(times))
    one_column = concordance_index_antolini(time, event, survival[:, :1], times[:1])
    assert one_column.estimate == harrell.estimate


def test_a_coarse_grid_of_curves_that_saturate_loses_what_harrells_c_sees():
    time, event, _, _ = cohort(6, n=300, ties=False)
    risk = -np.log(time) + np.random.default_rng(6).normal(size=300)
    times = np.linspace(0, time.max(), 5)
    survival = np.exp(-np.outer(np.exp(5 + 3 * risk), times)).round(3)
    assert (
        concordance_index_antolini(time, event, survival, times).estimate
        < concordance_index(time, event, risk).estimate - 0.05
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_first_column_of_ones_is_not_read(method):
    time, event, survival, times = cohort(7)
    with_start = np.column_stack([np.ones(len(time)), survival])
    result = concordance_index_antolini(
        time, event, with_start, np.append(0.0, times), method=method
    )
    plain = concordance_index_antolini(time, event, survival, times, method=method)
    assert (result.estimate, result.n_times) == (plain.estimate, plain.n_times)
    np.testing.assert_array_equal(result.influence, plain.influence)


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("level", [0.7, 1.0])
def test_constant_curves_are_chance_without_error(columns, level):
    time, event, _, _ = cohort(8)
    times = np.arange(1, columns + 1) / 3
    same = np.full((len(time), columns), level)
    harrell = concordance_index_antolini(time, event, same, times)
    assert harrell.estimate == 0.5
    assert harrell.standard_error == 0
    assert concordance_index_antolini(time, event, same, times, method="antolini").estimate == 0


def test_times_between_and_outside_the_grid():
    """Curves that cross: who reads which column decides the pair."""
    survival, times = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([2.0, 4.0])

    def single_pair(moment, steps):
        return concordance_index_antolini(
            np.array([moment, 9.0]), np.array([1, 0]), survival, times, steps=steps
        ).estimate

    assert [single_pair(moment, "post") for moment in (1.0, 2.0, 3.0, 4.0, 5.0)] == [0, 0, 0, 1, 1]
    assert [single_pair(moment, "pre") for moment in (1.0, 2.0, 3.0, 4.0, 5.0)] == [0, 0, 1, 1, 1]


def test_without_a_cause_competing_events_are_censored():
    time, event, survival, times = cohort(9, competing=True)
    plain = concordance_index_antolini(time, event, survival, times)
    assert plain.estimate == concordance_index_antolini(time, event == 1, survival, times).estimate
    assert (
        plain.estimate != concordance_index_antolini(time, event, survival, times, cause=1).estimate
    )
    other = np.array([0, 2, 1])[event]
    swapped = concordance_index_antolini(time, other, survival, times, cause=2)
    assert (
        swapped.estimate
        == concordance_index_antolini(time, event, survival, times, cause=1).estimate
    )


@pytest.mark.parametrize("method", ["harrell", "antolini", "adj_antolini"])
def test_pairs_with_a_row_of_weight_zero_are_not_counted(method):
    generator = np.random.default_rng(43)
    time, event = generator.integers(1, 6, 50).astype(float), generator.integers(0, 2, 50)
    curves, kept = generator.integers(0, 4, (50, 3)) / 4, generator.random(50) < 0.6
    times = np.array([1.0, 2.0, 4.0])
    whole = concordance_index_antolini(time, event, curves, times, method=method, weights=kept)
    part = concordance_index_antolini(time[kept], event[kept], curves[kept], times, method=method)
    assert whole.n_pairs == part.n_pairs
    assert whole.estimate == pytest.approx(part.estimate, abs=1e-14)


def test_two_models_are_compared_by_their_influences():
    time, event, survival, times = cohort(10)
    difference = subtract(
        concordance_index_antolini(time, event, survival, times),
        concordance_index_antolini(time, event, survival**2, times),
    )
    assert (difference.difference, difference.standard_error, difference.p_value) == (0, 0, 1)


def test_the_memory_order_and_the_precision_of_the_curves_do_not_matter():
    time, event, survival, times = cohort(11)
    expected = concordance_index_antolini(time, event, survival.astype(np.float32), times).estimate
    assert (
        concordance_index_antolini(time, event, np.asfortranarray(survival), times).estimate
        == expected
    )


@st.composite
def cohorts(draw):
    """Small cohorts full of ties, with at least one comparable pair."""
    n = draw(st.integers(3, 25))
    time = np.array(draw(st.lists(st.integers(1, 6), min_size=n, max_size=n)), float)
    event = np.array(draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=n, max_size=n)))
    levels = draw(st.lists(st.integers(1, 4), min_size=3 * n, max_size=3 * n))
    survival = np.cumprod(np.array(levels).reshape(n, 3) / 5, axis=1)
    time[:2], event[:2] = (1.0, 9.0), (1, 0)
    return time, event, survival, np.array([1.0, 2.5, 4.0])


@FEW
@given(cohorts(), st.sampled_from(METHODS))
def test_only_the_order_of_the_curves_at_each_time_counts(cohort, method):
    time, event, survival, times = cohort
    ranks = np.column_stack([np.unique(column, return_inverse=True)[1] for column in survival.T])
    plain = concordance_index_antolini(time, event, survival, times, method=method)
    mapped = concordance_index_antolini(time, event, (ranks / len(time)) ** 2, times, method=method)
    assert plain.estimate == mapped.estimate
    np.testing.assert_array_equal(plain.influence, mapped.influence)


@FEW
@given(cohorts())
def test_turning_the_curves_round_mirrors_the_index(cohort):
    time, event, survival, times = cohort
    levels = np.round(survival * 625) / 1024  # 1 minus these is exact
    plain = concordance_index_antolini(time, event, levels, times)
    turned = concordance_index_antolini(time, event, 1 - levels, times)
    assert turned.estimate == pytest.approx(1 - plain.estimate, abs=1e-14)
    np.testing.assert_allclose(turned.influence, -plain.influence, rtol=0, atol=1e-14)


@FEW
@given(cohorts(), st.randoms(use_true_random=False), st.sampled_from(METHODS))
def test_the_order_of_the_rows_does_not_matter(cohort, random, method):
    time, event, survival, times = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    plain = concordance_index_antolini(time, event, survival, times, method=method)
    permuted = concordance_index_antolini(
        time[order], event[order], survival[order], times, method=method
    )
    assert permuted.estimate == pytest.approx(plain.estimate, abs=1e-14)
    np.testing.assert_allclose(permuted.influence, plain.influence[order], rtol=0, atol=1e-14)


@FEW
@given(cohorts(), st.data(), st.sampled_from(METHODS), st.sampled_from([None, 1]))
def test_a_weight_of_two_is_two_copies_in_one_cluster(cohort, data, method, cause):
    time, event, survival, times = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    weighted = concordance_index_antolini(
        time, event, survival, times, method=method, weights=copies, cause=cause
    )
    rows = np.repeat(np.arange(len(time)), copies)
    copied = concordance_index_antolini(
        time[rows], event[rows], survival[rows], times, method=method, cluster=rows, cause=cause
    )
    assert weighted.estimate == pytest.approx(copied.estimate, abs=1e-14)
    assert weighted.standard_error == pytest.approx(copied.standard_error, abs=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"survival": np.full((50, 4), 1.2)}, "outside \\[0, 1\\]"),
        ({"survival": np.full((50, 4), np.nan)}, "NaN"),
        ({"survival": np.ones((50, 3))}, "survival has shape"),
        ({"survival": np.ones(50)}, "survival has shape"),
        ({"times": np.array([0.2, 0.9, 0.5, 1.0])}, "strictly ascending"),
        ({"times": np.array([0.2, 0.9, np.nan, 1.0])}, "finite"),
        ({"method": "antolni"}, "unknown method 'antolni'. Did you mean 'antolini'"),
        ({"steps": "after"}, "unknown steps"),
        ({"event": np.zeros(50, int)}, "none of the 50 rows has the event"),
        ({"event": np.full(50, 2), "cause": 1}, "none of the 50 rows has the event"),
        ({"event": np.ones(50, int), "time": np.ones(50)}, "no comparable pair"),
        ({"cluster": np.zeros(50)}, "no comparable pair"),
        ({"event": np.ones(49, int)}, "event has shape"),
        ({"time": np.zeros(50)}, "not finite and > 0"),
        ({"weights": -np.ones(50)}, "weights must be"),
    ],
)
def test_bad_input_is_refused(change, message):
    time, event, survival, times = cohort(12)
    arguments = {"time": time, "event": event, "survival": survival, "times": times, **change}
    with pytest.raises(MetricError, match=message):
        concordance_index_antolini(**arguments)
