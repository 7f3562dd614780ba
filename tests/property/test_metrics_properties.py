from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from concordant.metrics import (
    benjamini_hochberg,
    brier_score,
    compare_concordance,
    compare_concordance_ipcw,
    concordance_index,
    concordance_index_ipcw,
    holm,
    kaplan_meier,
)
from survival_fixture import FEW, cohorts

INDICES = [
    concordance_index,
    concordance_index_ipcw,
    pytest.param(partial(concordance_index, cause=1), id="concordance_index of a cause"),
    pytest.param(partial(concordance_index_ipcw, cause=1), id="concordance_index_ipcw of a cause"),
]


def same(first, second, *, sign=1.0):
    np.testing.assert_allclose(first.influence, sign * second.influence, rtol=0, atol=1e-12)
    assert first.standard_error == pytest.approx(second.standard_error, abs=1e-12)


@FEW
@given(cohorts())
@pytest.mark.parametrize("function", INDICES)
def test_an_increasing_map_of_the_risk_changes_nothing(function, cohort):
    time, event, risk = cohort
    plain, mapped = function(time, event, risk), function(time, event, np.exp(risk) - 7)
    assert plain.estimate == mapped.estimate
    same(plain, mapped)


@FEW
@given(cohorts())
@pytest.mark.parametrize("function", INDICES)
def test_turning_the_risk_round_mirrors_the_index(function, cohort):
    time, event, risk = cohort
    plain, turned = function(time, event, risk), function(time, event, -risk)
    assert turned.estimate == pytest.approx(1 - plain.estimate, abs=1e-13)
    same(plain, turned, sign=-1)


@FEW
@given(cohorts(), st.randoms(use_true_random=False))
@pytest.mark.parametrize("function", INDICES)
def test_the_order_of_the_rows_does_not_matter(function, cohort, random):
    time, event, risk = cohort
    order = np.array(random.sample(range(len(time)), len(time)))
    plain, permuted = function(time, event, risk), function(time[order], event[order], risk[order])
    assert permuted.estimate == pytest.approx(plain.estimate, abs=1e-13)
    np.testing.assert_allclose(permuted.influence, plain.influence[order], rtol=0, atol=1e-12)


@FEW
@given(cohorts(), st.data())
@pytest.mark.parametrize("function", INDICES)
def test_a_weight_of_two_is_two_copies_in_one_cluster(function, cohort, data):
    time, event, risk = cohort
    copies = np.array(
        data.draw(st.lists(st.integers(1, 3), min_size=len(time), max_size=len(time)))
    )
    weighted = function(time, event, risk, weights=copies)
    rows = np.repeat(np.arange(len(time)), copies)
    copied = function(time[rows], event[rows], risk[rows], cluster=rows)
    assert weighted.estimate == pytest.approx(copied.estimate, abs=1e-13)
    assert weighted.standard_error == pytest.approx(copied.standard_error, abs=1e-12)


@FEW
@given(cohorts())
@pytest.mark.parametrize("function", INDICES)
def test_influences_sum_to_zero_and_the_index_is_a_share(function, cohort):
    result = function(*cohort)
    assert 0 <= result.estimate <= 1
    assert abs(result.influence.sum()) < 1e-12


@FEW
@given(cohorts())
@pytest.mark.parametrize(
    "compare",
    [compare_concordance, compare_concordance_ipcw, partial(compare_concordance_ipcw, cause=1)],
)
def test_a_comparison_turned_round_changes_its_sign(compare, cohort):
    time, event, risk = cohort
    other = np.roll(risk, 1)
    forth, back = compare(time, event, risk, other), compare(time, event, other, risk)
    assert forth.difference == -back.difference
    assert forth.standard_error == back.standard_error


@FEW
@given(cohorts())
def test_brier_of_certain_and_right_curves_is_zero(cohort):
    time, event, _ = cohort
    times = np.array([1.5, 4.5])
    known = (time[:, None] > times).astype(float)
    np.testing.assert_array_equal(brier_score(time, event, known, times).estimate, 0)


@FEW
@given(cohorts())
def test_kaplan_meier_never_rises(cohort):
    curve = kaplan_meier(*cohort[:2])
    assert (np.diff(np.append(1.0, curve.survival)) <= 1e-15).all()
    assert (curve.survival >= 0).all()


@FEW
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_p_values_are_larger_and_keep_the_order(p_values):
    p = np.array(p_values)
    for adjusted in (holm(p), benjamini_hochberg(p)):
        assert (adjusted >= p - 1e-15).all()
        assert (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    assert (benjamini_hochberg(p) <= holm(p) + 1e-15).all()
