"""The convex solver: the optimum it finds, and what it does where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.core.errors import ConcordantError
from concordant.core.survival import SurvivalTarget
from concordant.training.cox_solver import LARGEST_COEFFICIENT, PartialLikelihood, solve_cox
from training_fixture import slow_cox


def draw(n=60, columns=3, seed=0, ties=5.0):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, columns))
    time = np.ceil(rng.exponential(np.exp(-design[:, 0])) * ties) + 1
    return design, SurvivalTarget(time, rng.choice([0, 1, 1, 2], n))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 10**6), st.floats(1, 40))
def test_value_and_gradient_equal_the_slow_reference(n, columns, seed, ties):
    design, target = draw(n, columns, seed, ties)
    point = np.random.default_rng(seed).normal(size=columns)
    found = PartialLikelihood(design, target).at(point, hessian=False)
    slow = slow_cox(design @ point, target.time, target.event)
    events = max(int(target.observed.sum()), 1)
    assert found.value == pytest.approx(slow.value / events, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(
        found.gradient, design.T @ slow.gradient / events, rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("penalty", [0.0, 0.1, 10.0])
def test_the_penalised_gradient_is_zero_at_the_solution(penalty):
    design, target = draw()
    found = solve_cox(design, target, penalty=penalty)
    slow = slow_cox(design @ found, target.time, target.event)
    np.testing.assert_allclose(
        design.T @ slow.gradient / target.observed.sum() + penalty * found, 0, atol=1e-7
    )


def test_neither_the_start_nor_the_order_of_rows_matters():
    design, target = draw()
    order = np.random.default_rng(1).permutation(len(design))
    expected = solve_cox(design, target, penalty=0.01)
    np.testing.assert_allclose(
        solve_cox(design, target, penalty=0.01, start=np.array([5.0, -5, 5])), expected, atol=1e-7
    )
    np.testing.assert_allclose(
        solve_cox(design[order], target.take(order), penalty=0.01), expected, atol=1e-9
    )


def test_a_larger_coefficient_means_an_earlier_event():
    design, target = draw(300, 1)
    assert solve_cox(design, target)[0] > 0.5
    assert solve_cox(-design, target)[0] < -0.5


def test_a_heavier_penalty_gives_smaller_coefficients():
    design, target = draw()
    sizes = [
        np.linalg.norm(solve_cox(design, target, penalty=penalty))
        for penalty in (0.001, 0.1, 1.0, 100.0)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.02


def test_columns_without_spread_or_twice_the_same_are_no_obstacle():
    design, target = draw()
    plain = solve_cox(design, target, penalty=0.1)
    padded = solve_cox(
        np.column_stack([design, np.ones(len(design)), np.zeros(len(design))]), target, penalty=0.1
    )
    np.testing.assert_allclose(padded, [*plain, 0, 0], atol=1e-8)
    unpenalised = solve_cox(np.column_stack([design, design[:, 0]]), target)
    np.testing.assert_allclose(
        unpenalised[0] + unpenalised[3], solve_cox(design, target)[0], atol=1e-5
    )


@pytest.mark.parametrize("nonnegative", [False, True])
def test_without_an_event_nothing_is_learned(nonnegative):
    design, target = draw()
    censored = SurvivalTarget(target.time, np.zeros(len(design), np.int64))
    np.testing.assert_array_equal(
        solve_cox(design, censored, penalty=0.1, nonnegative=nonnegative), np.zeros(3)
    )


def test_other_events_count_as_censored():
    design, target = draw()
    as_censored = SurvivalTarget(target.time, (target.event == 1).astype(np.int64))
    np.testing.assert_array_equal(solve_cox(design, target), solve_cox(design, as_censored))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_nonnegative_coefficients_fulfil_the_conditions_of_the_optimum(seed, penalty):
    design, target = draw(40, 3, seed)
    found = solve_cox(design, target, penalty=penalty, nonnegative=True)
    assert ((found >= 0) & (found <= LARGEST_COEFFICIENT)).all()
    gradient = PartialLikelihood(design, target).at(found, hessian=False).gradient + penalty * found
    inside = (found > 0) & (found < LARGEST_COEFFICIENT)
    np.testing.assert_allclose(gradient[inside], 0, atol=1e-5)
    assert (gradient[found == 0] >= -1e-5).all()


def test_a_perfect_order_without_a_penalty_ends_and_keeps_the_order():
    """The optimum lies at infinity.

    The solver says so, or stops where the likelihood cannot be told from its limit.
    """
    risk = np.linspace(-2, 2, 20)
    target = SurvivalTarget(np.exp(-risk), np.ones(20, np.int64))
    try:
        found = solve_cox(risk[:, None], target)[0]
    except ConcordantError as error:
        # either end is right, and this is what the message must say
        assert "did not converge" in str(error)  # noqa: PT017
    else:
        assert found > LARGEST_COEFFICIENT
        assert (
            PartialLikelihood(risk[:, None], target).at(np.array([found]), hessian=False).value
            < 1e-6
        )


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_unit_of_a_column_is_of_no_account(size):
    design, target = draw()
    np.testing.assert_allclose(
        solve_cox(design * size, target) * size, solve_cox(design, target), rtol=1e-5
    )
