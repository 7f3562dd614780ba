from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from concordant.core.errors import MetricError
from concordant.core.survival import Outcomes
from concordant.metrics import (
    Difference,
    Estimate,
    aalen_johansen,
    brier_score_at,
    compare_concordance,
    compare_net_benefit,
    concordance_index,
    concordance_index_ipcw,
    simultaneous_differences,
    subtract,
)
from concordant.metrics.inference import (
    critical_value,
    equivalence,
    joint_covariance,
    non_inferiority,
    one_sided_p_value,
    wald_interval,
    wald_p_value,
)
from concordant.metrics.repeated_folds import average_over_seeds, nadeau_bengio

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def test_normal_and_t_intervals():
    assert critical_value(0.95) == pytest.approx(1.959963984540054)
    assert critical_value(0.95, 10) == pytest.approx(2.2281388519649385)
    assert wald_interval(1.0, 0.5, degrees=10).high == pytest.approx(1 + 0.5 * 2.2281388519649385)
    assert wald_p_value(1.959963984540054, 1.0) == pytest.approx(0.05)
    assert wald_p_value(-2.2281388519649385, 1.0, degrees=10) == pytest.approx(0.05)


def test_without_a_standard_error_only_equality_is_a_result():
    assert wald_p_value(0.0, 0.0) == 1.0
    assert np.isnan(wald_p_value(0.1, 0.0))


@pytest.mark.parametrize("index", [concordance_index, concordance_index_ipcw])
@pytest.mark.parametrize("clustered", [False, True])
def test_models_that_order_all_comparable_pairs_alike_do_not_differ(index, clustered):
    generator = np.random.default_rng(3)
    for _ in range(10):
        time, event, risk = (
            generator.exponential(size=60),
            generator.integers(0, 2, 60),
            generator.normal(size=60),
        )
        late = np.argsort(time)[-6:]
        event[late] = 0  # never compared with each other
        risk[late] = generator.normal() + 1e-9 * np.arange(6)
        turned = risk.copy()
        turned[late] = risk[late[::-1]]
        options = {
            "weights": generator.random(60),
            "cluster": np.arange(60) // 2 if clustered else None,
        }
        same = subtract(index(time, event, risk, **options), index(time, event, turned, **options))
        assert (same.difference, same.standard_error, same.p_value) == (0.0, 0.0, 1.0)
        noise = index(time, event, generator.normal(size=60), **options)
        family = [subtract(noise, index(time, event, risk, **options)), same]
        assert simultaneous_differences(family).p_value[1] == 1.0
        assert simultaneous_differences(family).critical_value == pytest.approx(
            critical_value(0.95, family[0].degrees)
        )


def test_a_difference_is_not_taken_for_rounding_because_it_is_small():
    large = Estimate(estimate=1e6, influence=np.array([1e-3, -1e-3]), n=2, n_events=1)
    small = Estimate(estimate=1e6 - 1e-3, influence=np.array([-1e-3, 1e-3]), n=2, n_events=1)
    result = subtract(large, small)
    assert result.difference == pytest.approx(1e-3, rel=1e-6)
    assert result.standard_error == pytest.approx(np.sqrt(8) * 1e-3)


@pytest.mark.parametrize("cluster", [None, np.zeros(1, np.int64)])
def test_a_single_row_or_cluster_shows_no_variance(cluster):
    one = Estimate(estimate=0.5, influence=np.zeros(1), n=1, n_events=1, cluster=cluster)
    assert np.isnan(one.standard_error)
    assert np.isnan(one.interval()).all()
    time, event, predicted = np.arange(1.0, 9), np.array([1, 0] * 4), np.linspace(0.1, 0.8, 8)
    assert np.isnan(brier_score_at(time, event, predicted, 4.0, cluster=np.zeros(8)).standard_error)
    assert np.isnan(aalen_johansen(time, event, cluster=np.zeros(8)).standard_error).all()
    assert np.isnan(
        compare_net_benefit(
            time, event, predicted, 1 - predicted, 4.0, [0.3], cluster=np.zeros(8)
        ).p_value
    ).all()


def test_two_clusters_that_are_only_compared_with_each_other_show_no_variance():
    generator = np.random.default_rng(0)
    time, event, risks = (
        generator.exponential(size=60),
        generator.integers(0, 2, 60),
        generator.normal(size=(2, 60)),
    )
    two = compare_concordance(time, event, *risks, cluster=np.arange(60) % 2)
    assert np.isnan(two.standard_error)
    assert np.isnan(two.p_value)
    with pytest.raises(MetricError, match="too few clusters"):
        simultaneous_differences([two, two])
    constant = compare_concordance(
        time, event, np.zeros(60), np.ones(60), cluster=np.arange(60) % 2
    )
    assert (constant.difference, constant.standard_error, constant.p_value) == (0.0, 0.0, 1.0)
    assert compare_concordance(time, event, *risks, cluster=np.arange(60) % 3).standard_error > 0.01


def test_a_difference_needs_the_same_rows():
    one = Estimate(estimate=0.5, influence=np.zeros(3), n=3, n_events=1)
    other = Estimate(estimate=0.5, influence=np.zeros(4), n=4, n_events=1)
    with pytest.raises(MetricError, match="same subjects"):
        subtract(one, other)


def test_a_difference_needs_the_same_clusters():
    rows = {"estimate": 0.5, "influence": np.zeros(3), "n": 3, "n_events": 1}
    plain, one = Estimate(**rows), Estimate(**rows, cluster=np.array([0, 0, 1]))
    other = Estimate(**rows, cluster=np.array([0, 1, 1]))
    for pair in ((plain, one), (one, plain), (one, other)):
        with pytest.raises(MetricError, match="same clusters"):
            subtract(*pair)
    assert subtract(one, Estimate(**rows, cluster=np.array([0, 0, 1]))).difference == 0


def cohort(n=120, seed=0):
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=n)
    time, event = generator.exponential(np.exp(-signal)), generator.integers(0, 2, n)
    return time, event, signal[:, None] + generator.normal(size=(n, 3))


def test_the_joint_covariance_holds_every_standard_error_and_every_correlation():
    time, event, risks = cohort()
    other = cohort(seed=1)[:2]
    cluster = np.arange(len(time)) // 2
    results = [
        concordance_index_ipcw(time, event, risk, censoring=Outcomes(*other), cluster=cluster)
        for risk in risks.T
    ]
    covariance = joint_covariance(results)
    np.testing.assert_allclose(
        np.sqrt(np.diag(covariance)), [result.standard_error for result in results], rtol=1e-12
    )
    contrast = np.array([1, -1, 0])
    assert contrast @ covariance @ contrast == pytest.approx(
        subtract(results[0], results[1]).standard_error ** 2, rel=1e-9
    )


ROWS = 30


def difference(value, error):
    influence = error * np.tile([1.0, -1.0], ROWS // 2) / np.sqrt(ROWS)
    return Difference(estimate=value, influence=influence, n=ROWS, n_events=1)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_t_distribution_has_the_degrees_of_the_independent_units(clustered):
    """For the mean of 12 numbers it is Student's test, but for n in place of n - 1 in the
    variance.
    """
    values = np.random.default_rng(8).normal(0.4, 1, 12)
    influence, cluster = (values - values.mean()) / 12, None
    if clustered:  # two rows each, the second adds nothing
        influence, cluster = np.column_stack([influence, np.zeros(12)]).ravel(), np.arange(24) // 2
    rows = {"influence": influence, "n": len(influence), "n_events": 1, "cluster": cluster}
    mean, plain = Difference(estimate=values.mean(), **rows), stats.ttest_1samp(values, 0)
    assert mean.degrees == 11
    assert mean.p_value == pytest.approx(
        2 * stats.t.sf(plain.statistic * np.sqrt(12 / 11), 11), rel=1e-12
    )
    half = stats.t.ppf(0.95, 11) * mean.standard_error
    expected = (values.mean() - half, values.mean() + half)
    assert mean.interval(0.9) == pytest.approx(expected, rel=1e-12)
    assert Estimate(estimate=values.mean(), **rows).interval(0.9) == pytest.approx(
        expected, rel=1e-12
    )


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    result = equivalence(difference(0.005, 0.01), 0.02)
    assert result.p_below == pytest.approx(stats.t.sf((0.005 + 0.02) / 0.01, ROWS - 1), rel=1e-12)
    assert result.p_above == pytest.approx(stats.t.cdf((0.005 - 0.02) / 0.01, ROWS - 1), rel=1e-12)
    assert result.p_value == result.p_above
    assert equivalence(difference(-0.005, 0.01), 0.02).p_value == pytest.approx(
        result.p_value, rel=1e-12
    )
    as_estimate = Estimate(
        estimate=0.005, influence=difference(0.005, 0.01).influence, n=ROWS, n_events=1
    )
    assert equivalence(as_estimate, 0.02) == result


@FEW
@given(
    st.floats(-0.1, 0.1),
    st.floats(0.005, 0.05),
    st.floats(0.01, 0.1),
    st.sampled_from([0.01, 0.05, 0.1]),
)
def test_margins_are_decided_by_the_interval_of_one_minus_two_alpha(value, error, margin, alpha):
    both = equivalence(difference(value, error), margin)
    low, high = both.interval(1 - 2 * alpha)
    assert (both.p_value < alpha) == (-margin < low and high < margin)
    one = non_inferiority(difference(value, error), margin)
    assert (one.p_value < alpha) == (one.interval(1 - 2 * alpha).low > -margin)
    assert both.p_value >= one.p_value


def test_at_the_margin_equivalence_is_claimed_as_often_as_alpha_says():
    generator = np.random.default_rng(0)
    observed = [
        difference(value, 0.01 * np.sqrt(generator.chisquare(ROWS - 1) / (ROWS - 1)))
        for value in generator.normal(0.03, 0.01, 5000)
    ]
    assert np.mean([equivalence(one, 0.03).p_value < 0.05 for one in observed]) == pytest.approx(
        0.05, abs=0.01
    )
    turned = [non_inferiority(one, 0.03, higher_is_better=False).p_value < 0.05 for one in observed]
    assert np.mean(turned) == pytest.approx(0.05, abs=0.01)


def test_non_inferiority_of_an_error_turns_the_difference_round():
    higher, lower = (
        non_inferiority(difference(-0.01, 0.005), 0.02),
        non_inferiority(difference(0.01, 0.005), 0.02, higher_is_better=False),
    )
    assert lower == higher
    assert higher.p_value == pytest.approx(stats.t.sf(2, ROWS - 1), rel=1e-12)


@pytest.mark.parametrize("margin", [0.0, -0.01, np.nan, np.inf])
@pytest.mark.parametrize("test", [equivalence, non_inferiority])
def test_a_margin_is_required(test, margin):
    with pytest.raises(MetricError, match="margin is"):
        test(difference(0.0, 0.01), margin)


def test_without_a_standard_error_no_margin_is_tested():
    assert np.isnan(equivalence(difference(0.0, 0.0), 0.02).p_value)
    assert np.isnan(non_inferiority(difference(0.0, 0.0), 0.02).p_value)
    assert one_sided_p_value(0.0, 0.0) == 1


def test_nadeau_bengio_equals_the_definition():
    values = np.random.default_rng(0).normal(0.02, 0.03, (5, 4))
    result = nadeau_bengio(values, 1 / 3)
    squares = sum((value - values.mean()) ** 2 for value in values.ravel()) / 19
    statistic = values.mean() / np.sqrt((1 / 20 + 1 / 3) * squares)
    assert result.estimate == values.mean()
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(statistic), 19), rel=1e-12)
    half = stats.t.ppf(0.95, 19) * result.standard_error
    assert result.interval(0.9) == pytest.approx(
        (values.mean() - half, values.mean() + half), rel=1e-12
    )
    plain = stats.ttest_1samp(values.ravel(), 0)
    assert nadeau_bengio(values, 1e-15).p_value == pytest.approx(plain.pvalue, rel=1e-9)


def test_nadeau_bengio_holds_its_level_where_a_plain_t_test_does_not():
    # Differences of folds correlate by the share of test rows, 1 / 5 (the authors' assumption).
    generator = np.random.default_rng(1)
    simulated = np.sqrt(0.2) * generator.normal(size=(4000, 1, 1)) + np.sqrt(
        0.8
    ) * generator.normal(size=(4000, 5, 5))
    corrected = np.mean([nadeau_bengio(values, 0.25).p_value < 0.05 for values in simulated])
    plain = np.mean(stats.ttest_1samp(simulated.reshape(4000, 25), 0, axis=1).pvalue < 0.05)
    assert corrected == pytest.approx(0.05, abs=0.012)
    assert plain > 0.3


def test_folds_that_all_agree_leave_nothing_to_test_with():
    assert np.isnan(nadeau_bengio(np.full((5, 5), 0.1), 0.25).p_value)
    assert nadeau_bengio(np.zeros((5, 5)), 0.25).p_value == 1


@pytest.mark.parametrize(
    ("values", "ratio", "message"),
    [
        (np.zeros(5), 0.25, r"expected \(repeat, fold\)"),
        (np.zeros((1, 1)), 0.25, "at least two"),
        (np.array([[0.1, np.nan]]), 0.25, "1 difference"),
        (np.zeros((2, 5)), 0.0, "test_train_ratio is 0"),
        (np.zeros((2, 5)), np.inf, "test_train_ratio is inf"),
    ],
)
def test_nadeau_bengio_refuses_bad_input(values, ratio, message):
    with pytest.raises(MetricError, match=message):
        nadeau_bengio(values, ratio)


def test_the_mean_over_seeds_has_the_influence_of_the_mean():
    time, event, risks = cohort()
    ones = np.ones(len(time))
    result = average_over_seeds([concordance_index(time, event, risk) for risk in risks.T])

    def mean(weights):
        return np.mean(
            [concordance_index(time, event, risk, weights=weights).estimate for risk in risks.T]
        )

    assert result.estimate == pytest.approx(mean(ones), abs=1e-14)
    for row in range(0, len(time), 17):
        step = 1e-5 * np.eye(len(time))[row]
        assert result.influence[row] == pytest.approx(
            (mean(ones + step) - mean(ones - step)) / 2e-5, abs=1e-8
        )
    left_out = np.array(
        [mean(np.where(np.arange(len(time)) == row, 0, 1)) for row in range(len(time))]
    )
    jackknife = np.sqrt((len(time) - 1) / len(time) * np.square(left_out - left_out.mean()).sum())
    assert result.standard_error == pytest.approx(jackknife, rel=0.05)


def test_seeds_are_not_subjects():
    time, event, risks = cohort()
    one = concordance_index(time, event, risks[:, 0])
    many = average_over_seeds([one] * 10)
    assert many.standard_error == pytest.approx(one.standard_error, rel=1e-12)
    assert (many.between_seeds, many.n_seeds) == (0, 10)
    assert average_over_seeds([one]).between_seeds is None
    three = [concordance_index(time, event, risk) for risk in risks.T]
    average = average_over_seeds(three)
    assert average.between_seeds == pytest.approx(
        np.std([result.estimate for result in three], ddof=1)
    )
    assert average.standard_error <= max(result.standard_error for result in three)


def test_differences_are_averaged_over_seeds_as_differences():
    time, event, risks = cohort()
    cluster = np.arange(len(time)) // 2
    pairs = [
        compare_concordance(time, event, risks[:, k], risks[:, k - 1], cluster=cluster)
        for k in range(2)
    ]
    average = average_over_seeds(pairs)
    expected = subtract(
        average_over_seeds([pair.a for pair in pairs]),
        average_over_seeds([pair.b for pair in pairs]),
    )
    assert average.estimate == pytest.approx(expected.difference, abs=1e-14)
    assert average.standard_error == pytest.approx(expected.standard_error, rel=1e-12)
    assert average.p_value == pytest.approx(expected.p_value, rel=1e-9)
    with pytest.raises(MetricError, match="same subjects"):
        average_over_seeds(
            [
                pairs[0],
                compare_concordance(
                    time[:9], event[:9], risks[:9, 0], risks[:9, 1], cluster=cluster[:9]
                ),
            ]
        )


def fresh_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "module", ["concordant.metrics", "concordant.evaluation", "concordant.analysis.compare"]
)
def test_no_torch_is_loaded(module):
    assert (
        fresh_python(
            f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] == "
            "'torch'])"
        )
        == "[]"
    )


def test_the_metrics_are_imported_in_under_a_second():
    code = (
        "import time; start = time.process_time(); import concordant.metrics; "
        "print(time.process_time() - start)"
    )
    assert min(float(fresh_python(code)) for _ in range(3)) < 1.0
