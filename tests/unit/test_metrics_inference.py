from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from concordant.core.errors import MetricError
from concordant.metrics import Estimate, benjamini_hochberg, holm, subtract
from concordant.metrics.inference import critical_value, wald_interval, wald_p_value


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
    np.testing.assert_allclose(benjamini_hochberg(p), slow_benjamini_hochberg(p), rtol=0, atol=1e-15)


def test_published_example_of_holm_and_benjamini_hochberg():
    # Benjamini and Hochberg 1995, section 4.1: fifteen tests, at q = 0.05 four are rejected, by Holm's family-wise control three.
    p = np.array([0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0])
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


def test_normal_and_t_intervals():
    assert critical_value(0.95) == pytest.approx(1.959963984540054)
    assert critical_value(0.95, 10) == pytest.approx(2.2281388519649385)
    assert wald_interval(1.0, 0.5, degrees=10).high == pytest.approx(1 + 0.5 * 2.2281388519649385)
    assert wald_p_value(1.959963984540054, 1.0) == pytest.approx(0.05)
    assert wald_p_value(-2.2281388519649385, 1.0, degrees=10) == pytest.approx(0.05)


def test_without_a_standard_error_only_equality_is_a_result():
    assert wald_p_value(0.0, 0.0) == 1.0
    assert np.isnan(wald_p_value(0.1, 0.0))


def test_a_difference_needs_the_same_rows():
    one = Estimate(estimate=0.5, influence=np.zeros(3), n=3, n_events=1)
    other = Estimate(estimate=0.5, influence=np.zeros(4), n=4, n_events=1)
    with pytest.raises(MetricError, match="same subjects"):
        subtract(one, other)


def fresh_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("module", ["concordant.metrics", "concordant.evaluation", "concordant.analysis.compare"])
def test_no_torch_is_loaded(module):
    assert fresh_python(f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] == 'torch'])") == "[]"


def test_the_metrics_are_imported_in_under_a_second():
    code = "import time; start = time.process_time(); import concordant.metrics; print(time.process_time() - start)"
    assert min(float(fresh_python(code)) for _ in range(3)) < 1.0
