from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concordant.core.errors import MetricError
from concordant.metrics.auc import auc_at, cumulative_dynamic_auc
from concordant.metrics.inference import critical_value, subtract
from survival_fixture import FEW, cohorts

TIMES = np.array([0.25, 0.5, 0.75, 1.0])


def cohort(seed, n=60, *, ties=True, competing=False):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.5, size=n)
    event = (time <= censored).astype(np.int64)
    if competing:
        event[(event == 1) & (generator.uniform(size=n) < 0.4)] = 2
    time = np.minimum(time, censored) + 0.01
    risk = signal + generator.normal(size=n)
    if ties:
        time, risk = np.ceil(time * 8) / 8, risk.round(1)
    return time, event, risk


def censoring_at(time, censored, weights, at, *, left):
    """G(at-) or G(at) by the definition: events leave before the censorings of the same time."""
    g = 1.0
    for s in np.unique(time[censored]):
        if s < at or (s == at and not left):
            q = weights[(time == s) & censored].sum()
            g *= 1 - q / (weights[time > s].sum() + q)
    return g


def slow_auc(
    time,
    event,
    risk,
    t,
    *,
    convention="default",
    weights=None,
    cluster=None,
    cause=None,
    censoring=None,
):
    """Every pair of a case and a control, one at a time."""
    w = np.ones(len(time)) if weights is None else weights
    observed = event == (1 if cause is None else cause)
    censored = ~observed if cause is None else event == 0
    curve = (
        (time, censored, w)
        if censoring is None
        else (censoring[0], censoring[1] != 1, np.ones(len(censoring[0])))
    )

    def inverse(i):
        if time[i] > t:
            return 1 / censoring_at(*curve, t, left=False)
        return (
            0.0 if censored[i] else 1 / censoring_at(*curve, time[i], left=convention == "default")
        )

    credit, total = 0.0, 0.0
    cases = [i for i in range(len(time)) if observed[i] and time[i] <= t]
    controls = [j for j in range(len(time)) if j not in cases and inverse(j) > 0]
    for i in cases:
        for j in controls:
            if cluster is None or cluster[i] != cluster[j]:
                pair = w[i] * inverse(i) * w[j] * inverse(j)
                total += pair
                credit += pair * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return credit / total


def slow_incidence(time, event, t, *, weights=None, cause=None):
    """Aalen-Johansen by the definition; 1 - Kaplan-Meier without a cause."""
    w = np.ones(len(time)) if weights is None else weights
    of_cause = event == (1 if cause is None else cause)
    of_any = of_cause if cause is None else event != 0
    incidence, free = 0.0, 1.0
    for s in np.unique(time[of_any]):
        if s <= t:
            at_risk = w[time >= s].sum()
            incidence += free * w[(time == s) & of_cause].sum() / at_risk
            free *= 1 - w[(time == s) & of_any].sum() / at_risk
    return incidence


@pytest.mark.parametrize("convention", ["default", "sksurv"])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "weighted",
        "clustered",
        "weighted and clustered",
        "competing",
        "external",
        "no ties",
    ],
)
def test_equals_the_pairwise_definition(convention, kind):
    time, event, risk = cohort(1, ties=kind != "no ties", competing=kind == "competing")
    generator = np.random.default_rng(2)
    options = {
        "convention": convention,
        "weights": generator.uniform(0.2, 3, len(time)) if "weighted" in kind else None,
        "cluster": generator.integers(0, 12, len(time)) if "clustered" in kind else None,
        "cause": 1 if kind == "competing" else None,
        "censoring": cohort(3)[:2] if kind == "external" else None,
    }
    result = cumulative_dynamic_auc(time, event, risk, TIMES, **options)
    slow = np.array([slow_auc(time, event, risk, t, **options) for t in TIMES])
    np.testing.assert_allclose(result.estimate, slow, rtol=0, atol=1e-14)
    reached = np.array(
        [
            slow_incidence(time, event, t, weights=options["weights"], cause=options["cause"])
            for t in TIMES
        ]
    )
    assert result.mean.estimate == pytest.approx(
        np.diff(reached, prepend=0) @ slow / reached[-1], abs=1e-14
    )
    for t, value, error in zip(TIMES, result.estimate, result.standard_error, strict=True):
        one = auc_at(time, event, risk, t, **options)
        assert (one.estimate, one.standard_error, one.horizon) == (value, error, t)
    assert (result.mean.first_time, result.mean.last_time, result.mean.note) == (
        0.25,
        1.0,
        "times 0.25 to 1",
    )
    assert result.unsupported.size == len(result.reasons) == 0


@pytest.mark.parametrize("convention", ["default", "sksurv"])
@pytest.mark.parametrize("cause", [None, 1])
@pytest.mark.parametrize("clustered", [False, True])
def test_influence_is_the_derivative_by_the_weights(convention, cause, clustered):
    time, event, risk = cohort(4, n=40, competing=True)
    generator = np.random.default_rng(2)
    weights = generator.uniform(0.5, 2, len(time))
    moving = risk[:, None] + generator.normal(size=(len(time), len(TIMES)))
    cluster = generator.integers(0, 15, len(time)) if clustered else None

    def results(w):
        options = {"convention": convention, "cause": cause, "weights": w, "cluster": cluster}
        one, other = (auc_at(time, event, risk, t, **options) for t in (0.5, 1.0))
        means = (
            cumulative_dynamic_auc(time, event, values, TIMES, **options).mean
            for values in (risk, moving)
        )
        return [one, other, *means]

    influence = np.array([result.influence for result in results(weights)])
    np.testing.assert_allclose(influence.sum(axis=1), 0, atol=1e-14)
    step = 1e-5
    for k in range(len(time)):
        up, down = weights.copy(), weights.copy()
        up[k] += step
        down[k] -= step
        slope = [
            (a.estimate - b.estimate) / (2 * step)
            for a, b in zip(results(up), results(down), strict=True)
        ]
        np.testing.assert_allclose(influence[:, k], weights[k] * np.array(slope), rtol=0, atol=1e-8)


@pytest.mark.parametrize("cause", [None, 1])
def test_standard_errors_are_near_the_leave_one_out_jackknife(cause):
    time, event, risk = cohort(5, n=150, competing=True)
    n, times = len(time), np.linspace(0.125, 1, 8)

    def values(rows):
        curve = cumulative_dynamic_auc(time[rows], event[rows], risk[rows], times, cause=cause)
        return [curve.estimate[3], curve.estimate[-1], curve.mean.estimate]

    left_out = np.array([values(np.delete(np.arange(n), k)) for k in range(n)])
    jackknife = np.sqrt((n - 1) / n * np.square(left_out - left_out.mean(axis=0)).sum(axis=0))
    curve = cumulative_dynamic_auc(time, event, risk, times, cause=cause)
    ratios = (
        np.array([curve.standard_error[3], curve.standard_error[-1], curve.mean.standard_error])
        / jackknife
    )
    np.testing.assert_allclose(ratios, 0.985, atol=0.03)


def test_an_external_curve_adds_its_own_variance():
    time, event, risk = cohort(6, n=100, ties=False)
    train_time, train_event, _ = cohort(7, n=400, ties=False)
    full = cumulative_dynamic_auc(
        time, event, risk, TIMES, censoring=(train_time, train_event)
    ).mean
    one = auc_at(time, event, risk, 0.75, censoring=(train_time, train_event))
    changes = np.empty((2, 400))
    for k in range(400):
        without = np.delete(train_time, k), np.delete(train_event, k)
        changes[0, k] = (
            full.estimate
            - cumulative_dynamic_auc(time, event, risk, TIMES, censoring=without).mean.estimate
        )
        changes[1, k] = one.estimate - auc_at(time, event, risk, 0.75, censoring=without).estimate
    for result, change in zip((full, one), changes, strict=True):
        np.testing.assert_allclose(result.censoring_influence, change, rtol=0.03, atol=1e-7)
        assert np.corrcoef(result.censoring_influence, change)[0, 1] > 0.999
        assert result.standard_error**2 == pytest.approx(
            (result.influence**2).sum() + (result.censoring_influence**2).sum()
        )


def test_a_pooled_curve_of_a_cohort_with_itself_is_its_own_curve():
    time, event, risk = cohort(8)
    pooled = auc_at(time, event, risk, 0.5, censoring=(time, event), pooled=True)
    alone = auc_at(time, event, risk, 0.5)
    assert pooled.estimate == pytest.approx(alone.estimate, abs=1e-14)
    np.testing.assert_allclose(
        pooled.influence + pooled.censoring_influence, alone.influence, rtol=0, atol=1e-14
    )


def test_without_censoring_it_is_the_area_under_the_roc_curve():
    time, _, risk = cohort(9, ties=False)
    event = np.ones(len(time), np.int64)
    case, control = risk[time <= 0.5], risk[time > 0.5]
    result = auc_at(time, event, risk, 0.5)
    assert result.estimate == pytest.approx((case[:, None] > control).mean(), abs=1e-15)
    assert (result.n_cases, result.n_controls) == (case.size, control.size)
    placement = (case[:, None] > control).mean(axis=1), (case[:, None] > control).mean(axis=0)
    plain = sum(
        part.var() / part.size for part in placement
    )  # DeLong's variance, but for n and n - 1
    assert result.standard_error == pytest.approx(np.sqrt(plain), rel=1e-12)


def test_a_competing_event_makes_a_control():
    time, event, risk = cohort(10, competing=True)
    plain, competing = auc_at(time, event, risk, 0.75), auc_at(time, event, risk, 0.75, cause=1)
    assert competing.n_controls == plain.n_controls + ((event == 2) & (time <= 0.75)).sum()
    assert competing.n_cases == plain.n_cases == ((event == 1) & (time <= 0.75)).sum()
    assert plain.estimate == auc_at(time, event == 1, risk, 0.75).estimate


def test_times_that_are_not_supported_are_left_out_with_the_reason():
    time, event, risk = cohort(11)
    early, late = time[event == 1].min() / 2, time.max()
    given = np.concatenate([[-1, early], TIMES, [late, 1e6]])
    moving = np.repeat(risk[:, None], len(given), axis=1)
    for values in (risk, moving):
        result = cumulative_dynamic_auc(time, event, values, given)
        np.testing.assert_array_equal(result.times, TIMES)
        np.testing.assert_array_equal(result.unsupported, [-1, early, late, 1e6])
        end = f"nobody is followed beyond it; follow-up ends at {late:g}"
        assert result.reasons == (
            "nobody had the event by then",
            "nobody had the event by then",
            end,
            end,
        )
        supported = cumulative_dynamic_auc(time, event, risk, TIMES)
        np.testing.assert_array_equal(result.estimate, supported.estimate)
        assert result.mean.estimate == supported.mean.estimate


def test_a_censoring_cohort_followed_for_less_time_shortens_the_range():
    time, event, risk = cohort(12)
    short = time < 0.8
    result = cumulative_dynamic_auc(time, event, risk, TIMES, censoring=(time[short], event[short]))
    np.testing.assert_array_equal(result.times, [0.25, 0.5])
    assert result.reasons == ("the censoring curve is not known beyond 0.75",) * 2


def test_a_time_without_a_pair_of_two_clusters_is_not_supported():
    time, event = np.array([1.0, 2.0, 3.0]), np.array([1, 1, 0])
    result = cumulative_dynamic_auc(
        time,
        event,
        np.array([3.0, 2.0, 4.0]),
        np.array([1.0, 2.0]),
        cluster=np.array(["a", "b", "b"]),
    )
    assert (result.times.tolist(), result.unsupported.tolist(), result.estimate.tolist()) == (
        [1, 2],
        [],
        [0.5, 0],
    )
    same = np.array(["a", "a", "a"])
    with pytest.raises(MetricError, match="no case and control are of different clusters"):
        auc_at(time, event, np.array([3.0, 2.0, 4.0]), 1.0, cluster=same)
    with pytest.raises(MetricError, match="no time is supported; at 1 no case and control"):
        cumulative_dynamic_auc(
            time, event, np.array([3.0, 2.0, 4.0]), np.array([1.0, 2.0]), cluster=same
        )


@pytest.mark.parametrize("cause", [None, 1])
def test_a_constant_risk_is_exactly_chance_without_error(cause):
    time, event, _ = cohort(13, competing=True)
    result = cumulative_dynamic_auc(time, event, np.full(len(time), 0.3), TIMES, cause=cause)
    np.testing.assert_array_equal(result.estimate, 0.5)
    np.testing.assert_allclose(result.standard_error, 0, atol=1e-15)
    assert result.mean.estimate == pytest.approx(0.5, abs=1e-15)
    assert result.mean.standard_error == pytest.approx(0, abs=1e-15)


def test_two_models_are_compared_by_their_influences():
    time, event, risk = cohort(14)
    difference = subtract(auc_at(time, event, risk, 0.5), auc_at(time, event, np.exp(risk), 0.5))
    assert (difference.difference, difference.standard_error, difference.p_value) == (0, 0, 1)


def test_risks_are_tied_only_when_they_are_equal():
    time, event, risk = cohort(15, ties=False)
    assert (
        auc_at(time, event, risk * 1e-12, 0.5).estimate == auc_at(time, event, risk, 0.5).estimate
    )


def test_interval_holds_the_estimate_in_its_middle():
    time, event, risk = cohort(16)
    result = cumulative_dynamic_auc(time, event, risk, TIMES)
    band = result.interval()
    np.testing.assert_allclose((band.low + band.high) / 2, result.estimate)
    np.testing.assert_allclose(
        band.high - band.low, 2 * critical_value(0.95, len(time) - 1) * result.standard_error
    )


@pytest.mark.parametrize("moving", [False, True])
def test_memory_grows_with_subjects_plus_times_not_with_their_product(moving):
    time, event, risk = cohort(17, n=5000, ties=False)
    times = np.quantile(time, np.linspace(0.05, 0.95, 200))
    values = np.asfortranarray(np.repeat(risk[:, None], len(times), axis=1)) if moving else risk
    cumulative_dynamic_auc(time, event, risk, times[:2])  # compiles
    tracemalloc.start()
    cumulative_dynamic_auc(time, event, values, times)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 8 * len(time) * len(times)


def both(time, event, risk, **options):
    """The area at one time and the mean over two."""
    return (
        auc_at(time, event, risk, 3.0, **options),
        cumulative_dynamic_auc(time, event, risk, np.array([3.0, 5.0]), **options).mean,
    )


CAUSES = st.sampled_from([None, 1])


@FEW
@given(cohorts(), CAUSES)
def test_an_increasing_map_of_the_risk_changes_nothing(cohort, cause):
    time, event, risk = cohort
    for plain, mapped in zip(
        both(time, event, risk, cause=cause),
        both(time, event, risk**3 - 7, cause=cause),
        strict=True,
    ):
        assert plain.estimate == pytest.approx(mapped.estimate, abs=1e-14)
        np.testing.assert_allclose(plain.influence, mapped.influence, rtol=0, atol=1e-14)


@FEW
@given(cohorts(), CAUSES)
def test_turning_the_risk_round_mirrors_the_area(cohort, cause):
    time, event, risk = cohort
    for plain, turned in zip(
        both(time, event, risk, cause=cause), both(time, event, -risk, cause=cause), strict=True
    ):
        assert 0 <= plain.estimate <= 1
        assert turned.estimate == pytest.approx(1 - plain.estimate, abs=1e-13)
        np.testing.assert_allclose(turned.influence, -plain.influence, rtol=0, atol=1e-13)


@FEW
@given(cohorts(), st.randoms(use_true_random=False), CAUSES)
def test_the_order_of_the_rows_does_not_matter(cohort, random, cause):
    time, event, risk = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    moved = both(time[order], event[order], risk[order], cause=cause)
    for plain, permuted in zip(both(time, event, risk, cause=cause), moved, strict=True):
        assert permuted.estimate == pytest.approx(plain.estimate, abs=1e-13)
        np.testing.assert_allclose(permuted.influence, plain.influence[order], rtol=0, atol=1e-13)


@FEW
@given(cohorts(), st.data(), CAUSES)
def test_a_weight_of_two_is_two_copies_in_one_cluster(cohort, data, cause):
    time, event, risk = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    rows = np.repeat(np.arange(len(time)), copies)
    repeated = both(time[rows], event[rows], risk[rows], cluster=rows, cause=cause)
    for weighted, copied in zip(
        both(time, event, risk, weights=copies, cause=cause), repeated, strict=True
    ):
        assert weighted.estimate == pytest.approx(copied.estimate, abs=1e-13)
        assert weighted.standard_error == pytest.approx(copied.standard_error, abs=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"risk": np.full(60, np.nan)}, "NaN or infinite"),
        ({"risk": np.full((60, 4), np.inf)}, "NaN or infinite"),
        ({"risk": np.zeros(59)}, "risk has shape"),
        ({"risk": np.zeros((59, 4))}, "risk has shape"),
        ({"risk": np.zeros((60, 3))}, "risk has shape"),
        ({"risk": np.zeros((60, 4, 1))}, "risk has shape"),
        ({"times": np.array([0.2, 0.9, 0.5, 1.0])}, "strictly ascending"),
        ({"times": np.array([0.2, 0.9, np.nan])}, "finite"),
        (
            {"times": np.array([1e6, 2e6])},
            "no time is supported; at 1e\\+06 nobody is followed beyond it",
        ),
        (
            {"times": np.array([-2.0, -1.0])},
            "no time is supported; at -2 nobody had the event by then",
        ),
        (
            {"event": np.zeros(60, int)},
            "no time is supported; at 0.25 nobody had the event by then",
        ),
        ({"event": np.zeros(59, int)}, "event has shape"),
        ({"time": np.zeros(60)}, "not finite and > 0"),
        ({"convention": "skurv"}, "Did you mean 'sksurv'"),
        ({"pooled": True}, "pooled=True needs"),
        ({"weights": -np.ones(60)}, "weights must be"),
    ],
)
def test_bad_input_is_refused(change, message):
    time, event, risk = cohort(18)
    arguments = {"time": time, "event": event, "risk": risk, "times": TIMES, **change}
    with pytest.raises(MetricError, match=message):
        cumulative_dynamic_auc(**arguments)


def test_a_bad_horizon_is_refused():
    time, event, risk = cohort(19)
    for horizon, message in [
        (np.nan, "horizon is nan"),
        (1e6, "not defined at 1e\\+06: nobody is followed"),
        (1e-3, "nobody had the event"),
    ]:
        with pytest.raises(MetricError, match=message):
            auc_at(time, event, risk, horizon)
    with pytest.raises(MetricError, match="risk has shape"):
        auc_at(time, event, risk[:, None], 0.5)
