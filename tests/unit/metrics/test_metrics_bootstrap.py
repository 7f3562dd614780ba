from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm

from concordant.core.errors import MetricError
from concordant.metrics import compare_concordance, concordance_index, concordance_index_ipcw
from concordant.metrics.bootstrap import Bootstrap, bootstrap, bootstrap_concordance, resamples

FEW = settings(max_examples=25, deadline=None, derandomize=True)


def cohort(seed, n=60, models=2, *, ties=True):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, censored = generator.exponential(np.exp(-signal)), generator.exponential(1.5, size=n)
    event = (time <= censored).astype(np.int64)
    time = np.minimum(time, censored)
    risks = signal[:, None] + generator.normal(size=(n, models))
    if ties:
        time, risks = np.ceil(time * 8), np.round(risks, 1)
    return time + 0.5, event, risks


def slow_replicates(time, event, risks, *, replicates, cluster=None, weights=None, seed=0):
    """Concordance of every model with every resample's multiplicities as weights, one at a time."""
    given_weights = np.ones(len(time)) if weights is None else weights
    return np.array(
        [
            [
                concordance_index(
                    time, event, risk, weights=m * given_weights, cluster=cluster
                ).estimate
                for risk in risks.T
            ]
            for m in resamples(len(time), replicates=replicates, cluster=cluster, seed=seed)
        ]
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clustered", [False, True])
def test_every_replicate_is_the_concordance_with_multiplicities_as_weights(
    ties, weighted, clustered
):
    time, event, risks = cohort(1, ties=ties)
    generator = np.random.default_rng(5)
    options = {
        "weights": generator.uniform(0.2, 3, len(time)) if weighted else None,
        "cluster": generator.integers(0, 25, len(time)) if clustered else None,
        "replicates": 70,  # more than one sweep's, and no multiple of it
        "seed": 3,
    }
    result = bootstrap_concordance(time, event, risks, **options)
    np.testing.assert_allclose(
        result.replicates, slow_replicates(time, event, risks, **options), rtol=0, atol=1e-12
    )
    plain = [
        concordance_index(
            time, event, r, weights=options["weights"], cluster=options["cluster"]
        ).estimate
        for r in risks.T
    ]
    np.testing.assert_array_equal(result.estimate, plain)


@FEW
@given(st.data())
def test_every_replicate_is_exact_in_small_cohorts_full_of_ties(data):
    n = data.draw(st.integers(6, 25))
    time = np.array(data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)), float)
    event = np.array(data.draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=n, max_size=n)))
    risk = np.array(data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n)), float)
    cluster = data.draw(
        st.one_of(st.none(), st.lists(st.integers(0, 9), min_size=n, max_size=n).map(np.array))
    )
    time[:4], event[:4] = [1.0, 9.0, 1.0, 9.0], [1, 0, 1, 0]
    if cluster is not None:
        cluster[:4] = [20, 21, 22, 23]
    result = bootstrap_concordance(
        time, event, risk[:, None], replicates=66, cluster=cluster, max_failed=0.9
    )
    expected = []
    for multiplicity in resamples(n, replicates=66, cluster=cluster):
        try:
            expected.append(
                concordance_index(time, event, risk, weights=multiplicity, cluster=cluster).estimate
            )
        except MetricError:
            expected.append(np.nan)
    assert result.failed == np.isnan(expected).sum()
    np.testing.assert_allclose(
        result.replicates[:, 0], np.array(expected)[~np.isnan(expected)], rtol=0, atol=1e-12
    )


def test_sums_beyond_int32_are_exact():
    time, event, risks = cohort(2, n=80_000, models=1, ties=False)
    result = bootstrap_concordance(time, event, risks, replicates=2)
    np.testing.assert_allclose(
        result.replicates, slow_replicates(time, event, risks, replicates=2), rtol=0, atol=1e-12
    )


def test_maps_of_the_risk_act_on_every_replicate():
    time, event, risks = cohort(3)
    plain = bootstrap_concordance(time, event, risks, replicates=100)
    np.testing.assert_array_equal(
        bootstrap_concordance(time, event, np.exp(risks) - 3, replicates=100).replicates,
        plain.replicates,
    )
    turned = bootstrap_concordance(time, event, -risks, replicates=100)
    np.testing.assert_allclose(turned.replicates, 1 - plain.replicates, rtol=0, atol=1e-13)
    constant = bootstrap_concordance(time, event, 0 * risks, replicates=100)
    np.testing.assert_array_equal(constant.replicates, 0.5)
    np.testing.assert_array_equal(constant.standard_error, 0)
    assert constant.difference(0, 1).p_value == 1


def test_a_weight_of_two_is_two_copies_in_one_cluster():
    time, event, risks = cohort(4)
    weights = np.random.default_rng(0).integers(1, 3, len(time))
    copies = np.repeat(np.arange(len(time)), weights)
    weighted = bootstrap_concordance(time, event, risks, weights=weights, replicates=80)
    copied = bootstrap_concordance(
        time[copies], event[copies], risks[copies], cluster=copies, replicates=80
    )
    np.testing.assert_allclose(copied.replicates, weighted.replicates, rtol=0, atol=1e-12)


def test_the_order_of_the_rows_does_not_matter_beyond_which_are_drawn():
    time, event, risks = cohort(5, n=200)
    order = np.random.default_rng(1).permutation(len(time))
    cluster = np.arange(len(time))  # the labels say which rows are drawn, whatever their order
    plain = bootstrap_concordance(time, event, risks, cluster=cluster, replicates=70)
    shuffled = bootstrap_concordance(
        time[order], event[order], risks[order], cluster=cluster[order], replicates=70
    )
    np.testing.assert_allclose(shuffled.replicates, plain.replicates, rtol=0, atol=1e-12)


def test_the_seed_decides_and_more_replicates_keep_the_first_ones():
    time, event, risks = cohort(6)
    few, many = (
        bootstrap_concordance(time, event, risks, replicates=count).replicates
        for count in (65, 150)
    )
    np.testing.assert_array_equal(few, many[:65])
    assert (
        bootstrap_concordance(time, event, risks, replicates=65, seed=1).replicates != few
    ).any()


def test_resamples_draw_as_many_rows_or_clusters_as_there_are():
    draws = np.stack(list(resamples(50, replicates=400)))
    assert (draws.sum(axis=1) == 50).all()
    assert draws.mean(axis=0) == pytest.approx(np.ones(50), abs=0.25)  # 5 times the standard error
    assert (draws == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)
    cluster = np.repeat(["b", "a", "c"], [1, 2, 3])
    together = np.stack(list(resamples(6, replicates=50, cluster=cluster)))
    assert (together[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (together[:, 1] == together[:, 2]).all()
    assert (together[:, 3:] == together[:, [3]]).all()


@pytest.mark.parametrize("clustered", [False, True])
def test_standard_errors_are_close_to_those_of_the_influence_functions(clustered):
    time, event, risks = cohort(7, n=600, ties=False)
    cluster = np.arange(600) // 2 if clustered else None
    result = bootstrap_concordance(time, event, risks, cluster=cluster, replicates=1500)
    paired = compare_concordance(time, event, *risks.T, cluster=cluster)
    assert result.standard_error == pytest.approx(
        [paired.a.standard_error, paired.b.standard_error], rel=0.07
    )
    difference = result.difference(0, 1)
    assert difference.estimate == pytest.approx(paired.difference, abs=1e-14)
    assert difference.standard_error == pytest.approx(paired.standard_error, rel=0.07)
    assert difference.p_value == pytest.approx(paired.p_value, abs=0.03)
    contrast = np.array([1, -1])
    assert contrast @ result.covariance @ contrast == pytest.approx(
        difference.standard_error**2, rel=1e-9
    )
    for method in ("percentile", "normal"):
        interval, influence = difference.interval(method=method), paired.interval()
        assert interval.low == pytest.approx(influence.low, abs=0.15 * paired.standard_error * 2)
        assert interval.high == pytest.approx(influence.high, abs=0.15 * paired.standard_error * 2)


def test_intervals_and_p_values_are_read_off_the_replicates():
    time, event, risks = cohort(8)
    result = bootstrap_concordance(time, event, risks, replicates=400)
    first, band = result.component(0), result.interval(0.9)
    assert first.interval(0.9).low == pytest.approx(np.percentile(result.replicates[:, 0], 5))
    assert (first.interval(0.9).low, first.interval(0.9).high) == (band.low[0], band.high[0])
    normal = first.interval(0.9, "normal")
    assert normal.high - normal.low == pytest.approx(2 * 1.6448536 * first.standard_error)
    assert first.standard_error == pytest.approx(result.standard_error[0], rel=1e-12)
    assert first.p_value == 2 / 401  # no replicate is near 0
    with pytest.raises(MetricError, match="'percentile', 'bca' or 'normal'"):
        first.interval(method="studentized")
    with pytest.raises(MetricError, match="level is 2"):
        first.interval(2)


def test_the_general_bootstrap_draws_the_same_resamples():
    time, event, risks = cohort(9)
    cluster = np.arange(len(time)) // 3
    kernel = bootstrap_concordance(time, event, risks, cluster=cluster, replicates=70, seed=4)
    general = bootstrap(
        lambda w: np.array(
            [
                concordance_index(time, event, risk, weights=w, cluster=cluster).estimate
                for risk in risks.T
            ]
        ),
        len(time),
        cluster=cluster,
        replicates=70,
        seed=4,
    )
    np.testing.assert_allclose(general.replicates, kernel.replicates, rtol=0, atol=1e-12)
    np.testing.assert_allclose(general.estimate, kernel.estimate, rtol=0, atol=1e-14)


def test_the_mean_has_its_textbook_standard_error():
    values = np.random.default_rng(0).normal(size=100)
    result = bootstrap(lambda w: float(w @ values / w.sum()), 100, replicates=4000)
    assert result.estimate == pytest.approx(values.mean())
    assert result.standard_error == pytest.approx(values.std() / 10, rel=0.05)
    assert result.p_value == pytest.approx(
        2 * min((result.replicates <= 0).mean(), (result.replicates >= 0).mean()), abs=0.001
    )


def test_uno_s_censoring_curve_is_estimated_anew_in_every_resample():
    time, event, risks = cohort(10, n=200)
    tau = float(np.quantile(time, 0.8))

    def uno(weights):
        return concordance_index_ipcw(time, event, risks[:, 0], tau=tau, weights=weights).estimate

    result = bootstrap(uno, len(time), replicates=400)
    influence = concordance_index_ipcw(time, event, risks[:, 0], tau=tau)
    assert result.estimate == influence.estimate
    assert result.standard_error == pytest.approx(influence.standard_error, rel=0.12)
    # Gathered rows, the copies of one subject in one cluster, give the same: G is that of the
    # resample.
    first = next(iter(resamples(len(time), replicates=2)))
    rows = np.repeat(np.arange(len(time)), first)
    gathered = concordance_index_ipcw(
        time[rows], event[rows], risks[rows, 0], tau=tau, cluster=rows
    )
    assert result.replicates[0] == pytest.approx(gathered.estimate, abs=1e-12)


def test_failed_resamples_are_counted_and_too_many_refused():
    def fails_without_the_first_row(weights):
        if weights[0] == 0:
            raise MetricError("the first row is needed")
        return float(weights[0])

    with pytest.raises(MetricError, match=r"resamples failed, .* 0.05 .*: the first row is needed"):
        bootstrap(fails_without_the_first_row, 30, replicates=100)
    result = bootstrap(fails_without_the_first_row, 30, replicates=100, max_failed=0.6)
    assert result.failed == sum(m[0] == 0 for m in resamples(30, replicates=100))
    assert len(result.replicates) == 100 - result.failed
    time, event, risk = np.arange(1.0, 9.0), np.eye(8)[0], np.arange(8.0)[:, None]
    with pytest.raises(MetricError, match="no comparable pair"):
        bootstrap_concordance(time, event, risk)
    some = bootstrap_concordance(time, event, risk, max_failed=0.5, replicates=300)
    assert some.failed == sum(m[0] == 0 or m[0] == 8 for m in resamples(8, replicates=300))


@pytest.mark.parametrize(
    ("statistic", "message"),
    [
        (lambda w: float("nan") if w[0] else 1.0, "NaN or infinity"),
        (lambda w: np.arange(1 + (w[0] == 0), dtype=float), "one length in all"),
        (lambda w: np.ones((2, 2)), "a number, or a vector"),
    ],
)
def test_a_statistic_returns_finite_numbers_of_one_shape(statistic, message):
    with pytest.raises(MetricError, match=message):
        bootstrap(statistic, 10, replicates=20)


@pytest.mark.parametrize("clustered", [False, True])
def test_replicates_of_a_cause_are_the_concordance_of_that_cause(clustered):
    time, event, risks = cohort(12)
    event = np.where((event == 0) & (np.arange(len(time)) % 2 == 0), 2, event)
    cluster = np.arange(len(time)) // 2 if clustered else None
    result = bootstrap_concordance(time, event, risks, replicates=66, cluster=cluster, cause=1)
    slow = [
        [
            concordance_index(time, event, risk, weights=m, cluster=cluster, cause=1).estimate
            for risk in risks.T
        ]
        for m in resamples(len(time), replicates=66, cluster=cluster)
    ]
    np.testing.assert_allclose(result.replicates, slow, rtol=0, atol=1e-12)
    assert (
        result.estimate[0]
        == concordance_index(time, event, risks[:, 0], cluster=cluster, cause=1).estimate
    )
    assert (
        result.estimate[0] != concordance_index(time, event, risks[:, 0], cluster=cluster).estimate
    )


def slow_bca(estimate, replicates, influence, level):
    """Efron 1987, equations (2.2) to (2.6), in plain steps."""
    below = np.mean([(one < estimate) + 0.5 * (one == estimate) for one in replicates])
    bias, acceleration = norm.ppf(below), (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + norm.ppf(tail)
        ends.append(np.quantile(replicates, norm.cdf(bias + z / (1 - acceleration * z))))
    return ends


def test_bca_intervals_follow_efron_and_scipy():
    values = np.random.default_rng(3).lognormal(size=40)

    def mean(weights):
        return float(weights @ values / weights.sum())

    result = bootstrap(mean, 40, replicates=2000, jackknife=True)
    for level in (0.8, 0.95):
        interval = result.interval(level, "bca")
        assert interval == pytest.approx(
            slow_bca(result.estimate, result.replicates, values - values.mean(), level), abs=1e-12
        )
        theirs = scipy_bootstrap(
            (values,),
            np.mean,
            n_resamples=0,
            confidence_level=level,
            method="BCa",
            bootstrap_result=SimpleNamespace(bootstrap_distribution=result.replicates),
        ).confidence_interval
        assert interval == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert interval.low > result.interval().low  # the distribution is skewed to the right
    assert interval.high > result.interval().high


@pytest.mark.parametrize("clustered", [False, True])
def test_bca_of_the_concordance_uses_its_influences(clustered):
    time, event, risks = cohort(13, n=80)
    cluster = np.arange(80) // 2 if clustered else None
    joint = bootstrap_concordance(time, event, risks, cluster=cluster, replicates=500)
    paired = compare_concordance(time, event, *risks.T, cluster=cluster)

    def summed(influence):
        return influence if cluster is None else np.bincount(cluster, weights=influence)

    band = joint.interval(0.9, "bca")
    for number, model in enumerate((paired.a, paired.b)):
        slow = slow_bca(model.estimate, joint.replicates[:, number], summed(model.influence), 0.9)
        assert (band.low[number], band.high[number]) == pytest.approx(slow, abs=1e-12)
        assert joint.component(number).interval(0.9, "bca") == pytest.approx(slow, abs=1e-12)
    difference = joint.difference(0, 1)
    slow = slow_bca(paired.difference, difference.replicates, summed(paired.influence), 0.9)
    assert difference.interval(0.9, "bca") == pytest.approx(slow, abs=1e-12)
    left_out = bootstrap(
        lambda w: np.array(
            [
                concordance_index(time, event, r, weights=w, cluster=cluster).estimate
                for r in risks.T
            ]
        ),
        80,
        cluster=cluster,
        replicates=500,
        jackknife=True,
    )
    np.testing.assert_allclose(left_out.interval(0.9, "bca"), band, rtol=0, atol=0.004)


def test_bca_follows_a_monotone_map_and_survives_what_does_not_vary():
    values = np.random.default_rng(4).exponential(size=30)
    plain, mapped = (
        bootstrap(
            lambda w, power=power: float((w @ values / w.sum()) ** power),
            30,
            replicates=999,
            jackknife=True,
        )
        for power in (1, 3)
    )
    assert mapped.interval(0.9, "bca").high == pytest.approx(
        plain.interval(0.9, "bca").high ** 3, rel=0.02
    )
    constant = bootstrap(lambda w: 0.5, 10, replicates=20, jackknife=True)
    assert constant.interval(method="bca") == (0.5, 0.5)
    one_sided = Bootstrap(
        estimate=2.0, replicates=np.linspace(0, 1, 50), influence=np.array([1.0, -1.0])
    )
    assert one_sided.interval(method="bca") == pytest.approx(
        (1.0, 1.0), abs=0.01
    )  # as near as the replicates come


@pytest.mark.parametrize("seed", range(3))
def test_replicates_that_differ_by_rounding_do_not_differ(seed):
    generator = np.random.default_rng(seed)
    time, event, risk = (
        generator.exponential(size=60),
        generator.integers(0, 2, 60),
        generator.normal(size=60),
    )
    late = np.argsort(time)[-12:]
    event[late] = 0  # never compared with each other
    risk[late] = np.median(risk) + 1e-9 * np.arange(12)
    turned = risk.copy()
    turned[late] = risk[late[::-1]]
    both = bootstrap_concordance(
        time, event, np.column_stack([risk, turned]), replicates=100, weights=generator.random(60)
    )
    same = both.difference(0, 1)
    assert not same.replicates.any()
    assert (same.estimate, same.standard_error, same.p_value) == (0.0, 0.0, 1.0)


def test_bca_needs_influences():
    result = bootstrap(lambda w: float(w[0]), 10, replicates=20)
    with pytest.raises(MetricError, match="jackknife=True"):
        result.interval(method="bca")


@pytest.mark.slow
def test_bca_covers_a_skewed_mean_better_than_percentiles():
    generator = np.random.default_rng(5)
    above = {"percentile": 0, "bca": 0}
    for seed in range(1000):
        values = generator.lognormal(size=40)
        result = bootstrap(
            lambda w, v=values: float(w @ v / w.sum()),
            40,
            replicates=400,
            seed=seed,
            jackknife=True,
        )
        for method in above:
            above[method] += result.interval(0.9, method).high < np.exp(0.5)
    assert (
        above["bca"] < above["percentile"] - 15
    )  # both miss on this side more often than the 5 % asked for


def test_bad_input_is_refused():
    time, event, risks = cohort(11)
    with pytest.raises(MetricError, match=r"expected \(subject, model\)"):
        bootstrap_concordance(time, event, risks[:, 0])
    with pytest.raises(MetricError, match="risk has shape"):
        bootstrap_concordance(time, event, risks[1:])
    with pytest.raises(MetricError, match="NaN or infinite"):
        bootstrap_concordance(time, event, np.where(risks == risks.max(), np.nan, risks))
    with pytest.raises(MetricError, match="replicates 1"):
        bootstrap_concordance(time, event, risks, replicates=1)
    with pytest.raises(MetricError, match="has event 1"):
        bootstrap_concordance(time, 0 * event, risks)
    with pytest.raises(MetricError, match="one label per row"):
        bootstrap(lambda w: 1.0, 5, cluster=np.arange(4))
    with pytest.raises(MetricError, match="n is 0"):
        bootstrap(lambda w: 1.0, 0)
