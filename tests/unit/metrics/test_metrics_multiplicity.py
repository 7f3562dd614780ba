from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from concordant.core.errors import MetricError
from concordant.metrics import Difference, Estimate, concordance_index, subtract
from concordant.metrics.multiplicity import (
    benjamini_hochberg,
    gain_over_both,
    holm,
    simultaneous,
    simultaneous_differences,
)

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def slow_holm(p):
    order = sorted(range(len(p)), key=lambda k: p[k])
    adjusted, highest = [0.0] * len(p), 0.0
    for place, k in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[k]))
        adjusted[k] = highest
    return adjusted


def slow_benjamini_hochberg(p):
    order = sorted(range(len(p)), key=lambda k: -p[k])
    adjusted, lowest = [0.0] * len(p), 1.0
    for place, k in enumerate(order):
        lowest = min(lowest, p[k] * len(p) / (len(p) - place))
        adjusted[k] = lowest
    return adjusted


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_p_values_equal_the_definitions(seed):
    p = np.random.default_rng(seed).uniform(0, 0.3, 12).round(2)
    np.testing.assert_allclose(holm(p), slow_holm(p), rtol=0, atol=1e-15)
    np.testing.assert_allclose(
        benjamini_hochberg(p), slow_benjamini_hochberg(p), rtol=0, atol=1e-15
    )


def test_published_example_of_holm_and_benjamini_hochberg():
    # Benjamini and Hochberg 1995, section 4.1: fifteen tests, at q = 0.05 four are rejected, by
    # Holm's family-wise control three.
    p = np.array(
        [
            0.0001,
            0.0004,
            0.0019,
            0.0095,
            0.0201,
            0.0278,
            0.0298,
            0.0344,
            0.0459,
            0.3240,
            0.4262,
            0.5719,
            0.6528,
            0.7590,
            1.0,
        ]
    )
    assert (benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (holm(p) <= 0.05).sum() == 3


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_a_test_that_could_not_be_made_counts_in_its_family(adjust):
    adjusted = adjust(np.array([0.01, np.nan]))
    assert adjusted[0] == pytest.approx(0.02)
    assert np.isnan(adjusted[1])
    assert adjust(np.array([])).size == 0
    with pytest.raises(MetricError, match="between 0 and 1"):
        adjust(np.array([1.2]))


def equicorrelated(count, correlation):
    return np.full((count, count), correlation) + (1 - correlation) * np.eye(count)


@pytest.mark.parametrize("count", [2, 5, 20])
def test_independent_contrasts_have_the_quantile_of_sidak(count):
    result = simultaneous(np.zeros(count), 4 * np.eye(count))
    exact = stats.norm.ppf((1 + 0.95 ** (1 / count)) / 2)
    assert result.critical_value == pytest.approx(exact, abs=4 * result.critical_value_error)
    assert 0 < result.critical_value_error < 0.005


@pytest.mark.parametrize(
    ("degrees", "count", "published"),
    [
        (None, 2, 2.21),
        (None, 3, 2.35),
        (None, 4, 2.44),
        (20, 2, 2.38),
        (20, 3, 2.54),
        (20, 4, 2.65),
    ],
)
def test_the_quantiles_of_many_to_one_comparisons_are_dunnett_s(degrees, count, published):
    # Dunnett, Biometrics 20 (1964), 482-491, table II: two-sided, joint level 95 %, correlation one
    # half.
    result = simultaneous(np.zeros(count), equicorrelated(count, 0.5), degrees=degrees)
    assert result.critical_value == pytest.approx(
        published, abs=0.005 + 3 * result.critical_value_error
    )


@pytest.mark.parametrize("degrees", [None, 30])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_all_pairwise_comparisons_have_a_singular_covariance_and_the_quantile_of_tukey(
    degrees, level
):
    pairs = np.array([[1, -1, 0], [1, 0, -1], [0, 1, -1]], float)
    result = simultaneous(np.zeros(3), pairs @ pairs.T, degrees=degrees)
    exact = stats.studentized_range.ppf(level, 3, np.inf if degrees is None else degrees) / np.sqrt(
        2
    )
    high = result.interval(level).high / result.standard_error
    np.testing.assert_allclose(high, exact, rtol=0.003)


def test_quantile_and_p_values_equal_a_plain_simulation():
    generator = np.random.default_rng(1)
    root = generator.normal(size=(6, 4))
    covariance, degrees, draws = root @ root.T, 12, 400_000
    errors = np.sqrt(np.diag(covariance))
    normal = generator.normal(size=(draws, 4)) @ root.T / errors
    largest = np.abs(normal / np.sqrt(generator.chisquare(degrees, draws) / degrees)[:, None]).max(
        axis=1
    )
    estimates = np.array([0.5, 1, 1.5, 2, 3, 4]) * errors
    result = simultaneous(estimates, covariance, degrees=degrees, level=0.9)
    assert (largest > result.critical_value).mean() == pytest.approx(0.1, abs=0.003)
    np.testing.assert_allclose(
        result.p_value, [(largest > t).mean() for t in estimates / errors], rtol=0, atol=0.004
    )


def test_multiples_of_one_contrast_are_one_test():
    result = simultaneous(np.array([1.0, -2.0]), np.array([[1.0, -2.0], [-2.0, 4.0]]), degrees=9)
    assert result.critical_value == pytest.approx(stats.t.ppf(0.975, 9), abs=1e-9)
    assert result.critical_value_error == 0
    np.testing.assert_allclose(result.p_value, 2 * stats.t.sf(1, 9), rtol=1e-12)


def test_tiny_p_values_are_precise():
    result = simultaneous(np.array([9.0, 1.0]), np.eye(2))
    assert result.p_value[0] == pytest.approx(4 * stats.norm.sf(9), rel=0.05)
    assert result.p_value[0] <= 4 * stats.norm.sf(9)


@FEW
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 8))
def test_p_value_and_interval_agree_and_lie_between_single_and_bonferroni(seed, count, rank):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(count, rank))
    estimates = generator.normal(size=count) * 3
    result = simultaneous(estimates, root @ root.T, degrees=25, draws=2000)
    single = 2 * stats.t.sf(np.abs(estimates) / result.standard_error, 25)
    assert (result.p_value >= single - 1e-15).all()
    assert (result.p_value <= np.minimum(1, count * single) + 1e-15).all()
    assert (
        stats.t.ppf(0.975, 25) - 1e-9
        <= result.critical_value
        <= stats.t.ppf(1 - 0.025 / count, 25) + 1e-9
    )
    band = result.interval()
    np.testing.assert_array_equal((band.low > 0) | (band.high < 0), result.p_value < 0.05)


def test_the_seed_decides_and_scale_does_not_matter():
    covariance = equicorrelated(4, 0.3)
    first, again = (
        simultaneous(np.arange(4.0), covariance),
        simultaneous(1000 * np.arange(4.0), 1e6 * covariance),
    )
    np.testing.assert_allclose(first.p_value, again.p_value, rtol=1e-9)
    assert first.critical_value == pytest.approx(again.critical_value, abs=1e-9)
    other = simultaneous(np.arange(4.0), covariance, seed=1)
    assert 0 < abs(other.critical_value - first.critical_value) < 6 * first.critical_value_error


def test_a_contrast_without_a_standard_error_is_no_member_of_the_family():
    covariance = np.diag([1.0, 0.0, 0.0])
    result = simultaneous(np.array([2.0, 0.0, 0.1]), covariance)
    np.testing.assert_allclose(result.p_value, [2 * stats.norm.sf(2), 1.0, np.nan], rtol=1e-12)
    assert result.interval().high[2] == 0.1
    nothing = simultaneous(np.zeros(2), np.zeros((2, 2)))
    np.testing.assert_array_equal(nothing.p_value, 1.0)


@pytest.mark.parametrize(
    ("estimates", "covariance", "options", "message"),
    [
        (np.zeros(2), np.eye(3), {}, r"expected \(k,\)"),
        (np.zeros(0), np.zeros((0, 0)), {}, r"expected \(k,\)"),
        (np.array([0.0, np.nan]), np.eye(2), {}, "must be finite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), {}, "not symmetric"),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), {}, "positive semidefinite"),
        (np.zeros(2), np.eye(2), {"level": 1.0}, "level is 1.0"),
        (np.zeros(2), np.eye(2), {"degrees": 0}, "degrees is 0"),
        (np.zeros(2), np.eye(2), {"draws": 1}, "draws 1"),
    ],
)
def test_simultaneous_refuses_what_is_no_joint_distribution(
    estimates, covariance, options, message
):
    with pytest.raises(MetricError, match=message):
        simultaneous(estimates, covariance, **options)


def models(seed=0, n=80, count=4, *, cluster=None):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, event = generator.exponential(np.exp(-signal)), generator.integers(0, 2, n)
    return [
        concordance_index(time, event, signal + generator.normal(size=n), cluster=cluster)
        for _ in range(count)
    ]


@pytest.mark.parametrize("clustered", [False, True])
def test_differences_of_one_cohort_bring_their_covariance_and_degrees(clustered):
    cluster = np.arange(80) // 2 if clustered else None
    first, *others = models(cluster=cluster)
    differences = [subtract(other, first) for other in others]
    result = simultaneous_differences(differences)
    summed = np.stack(
        [
            d.influence if cluster is None else np.bincount(cluster, weights=d.influence)
            for d in differences
        ]
    )
    expected = simultaneous(
        np.array([d.difference for d in differences]),
        summed @ summed.T,
        degrees=39 if clustered else 79,
    )
    np.testing.assert_allclose(result.p_value, expected.p_value, rtol=1e-9)
    np.testing.assert_allclose(
        result.standard_error, [d.standard_error for d in differences], rtol=1e-12
    )
    assert result.degrees == expected.degrees


def test_differences_of_different_clusters_are_refused():
    with pytest.raises(MetricError, match="same clusters"):
        simultaneous_differences([models()[0], models(cluster=np.arange(80) // 2)[0]])
    with pytest.raises(MetricError, match="no result"):
        simultaneous_differences([])


ROWS = 30


def difference(value, error):
    influence = error * np.tile([1.0, -1.0], ROWS // 2) / np.sqrt(ROWS)
    return Difference(estimate=value, influence=influence, n=ROWS, n_events=1)


def test_a_gain_over_both_is_the_weaker_of_the_two():
    result = gain_over_both(difference(0.04, 0.01), difference(0.02, 0.01))
    assert result.p_value == pytest.approx(stats.t.sf(2, ROWS - 1), rel=1e-12)
    assert result.gain == 0.02
    turned = gain_over_both(
        difference(-0.04, 0.01), difference(-0.02, 0.01), higher_is_better=False
    )
    assert turned.p_value == result.p_value
    assert gain_over_both(difference(0.3, 0.01), difference(-0.02, 0.01)).p_value > 0.95


def test_a_gain_that_cannot_be_tested_is_not_claimed():
    assert np.isnan(gain_over_both(difference(0.04, 0.01), difference(0.02, 0.0)).p_value)
    assert gain_over_both(difference(0.04, 0.01), difference(0.0, 0.0)).p_value == 1
    other = Estimate(estimate=0.1, influence=np.zeros(3), n=3, n_events=1)
    with pytest.raises(MetricError, match="same subjects"):
        gain_over_both(difference(0.04, 0.01), other)


@FEW
@given(
    st.floats(-0.1, 0.3),
    st.floats(-0.1, 0.3),
    st.floats(0.01, 0.1),
    st.floats(0.01, 0.1),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_the_limit_of_a_gain_excludes_zero_where_the_test_rejects(
    to_a, to_b, error_a, error_b, level
):
    result = gain_over_both(difference(to_a, error_a), difference(to_b, error_b))
    assert (result.lower_limit(level) > 0) == (result.p_value < 1 - level)


def test_choosing_the_better_reference_by_the_same_data_is_biased_and_the_joint_test_is_not():
    generator = np.random.default_rng(3)
    scores = generator.normal(size=(20_000, 3))  # three equal models with standard error 1
    to_a, to_b = scores[:, 0] - scores[:, 1], scores[:, 0] - scores[:, 2]
    errors = np.sqrt(2 * generator.chisquare(ROWS - 1, len(scores)) / (ROWS - 1))
    claims = np.mean(
        [
            gain_over_both(difference(a, e), difference(b, e)).p_value < 0.05
            for a, b, e in zip(to_a, to_b, errors, strict=True)
        ]
    )
    assert claims < 0.05
    equal_to_a_only = np.mean(
        [
            gain_over_both(difference(a, e), difference(b + 20, e)).p_value < 0.05
            for a, b, e in zip(to_a, to_b, errors, strict=True)
        ]
    )
    assert equal_to_a_only == pytest.approx(0.05, abs=0.005)
