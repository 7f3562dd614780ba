"""The Cox solver: the optimum it finds, its path, and what it does where there is no optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from concordant.core.errors import ConcordantError
from concordant.core.survival import Outcomes
from concordant.metrics.cox import LARGEST_COEFFICIENT, cox_path, solve_cox
from concordant.metrics.partial_likelihood import PartialLikelihood
from training_fixture import slow_cox


def draw(n=60, columns=3, seed=0, ties=5.0):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, columns))
    time = np.ceil(rng.exponential(np.exp(-design[:, 0])) * ties) + 1
    return design, Outcomes(time, rng.choice([0, 1, 1, 2], n))


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 10**6), st.floats(1, 40))
def test_value_and_gradient_equal_the_slow_reference(n, columns, seed, ties):
    design, target = draw(n, columns, seed, ties)
    assume(target.observed.any())
    point = np.random.default_rng(seed).normal(size=columns)
    found = PartialLikelihood.of(design, target).at(point)
    slow = slow_cox(design @ point, target.time, target.event)
    events = int(target.observed.sum())
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
    censored = Outcomes(target.time, np.zeros(len(design), np.int64))
    np.testing.assert_array_equal(
        solve_cox(design, censored, penalty=0.1, nonnegative=nonnegative), np.zeros(3)
    )


def test_other_events_count_as_censored():
    design, target = draw()
    as_censored = Outcomes(target.time, (target.event == 1).astype(np.int64))
    np.testing.assert_array_equal(solve_cox(design, target), solve_cox(design, as_censored))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_nonnegative_coefficients_fulfil_the_conditions_of_the_optimum(seed, penalty):
    design, target = draw(40, 3, seed)
    found = solve_cox(design, target, penalty=penalty, nonnegative=True)
    assert ((found >= 0) & (found <= LARGEST_COEFFICIENT)).all()
    gradient = PartialLikelihood.of(design, target, penalty=penalty).at(found).gradient
    inside = (found > 0) & (found < LARGEST_COEFFICIENT)
    np.testing.assert_allclose(gradient[inside], 0, atol=1e-5)
    assert (gradient[found == 0] >= -1e-5).all()


def test_a_perfect_order_without_a_penalty_ends_and_keeps_the_order():
    """The optimum lies at infinity.

    The solver says so, or stops where the likelihood cannot be told from its limit.
    """
    risk = np.linspace(-2, 2, 20)
    target = Outcomes(np.exp(-risk), np.ones(20, np.int64))
    try:
        found = solve_cox(risk[:, None], target)[0]
    except ConcordantError as error:
        # either end is right, and this is what the message must say
        assert "did not converge" in str(error)  # noqa: PT017
    else:
        assert found > LARGEST_COEFFICIENT
        assert PartialLikelihood.of(risk[:, None], target).at(np.array([found])).value < 1e-6


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_the_unit_of_a_column_is_of_no_account(size):
    design, target = draw()
    np.testing.assert_allclose(
        solve_cox(design * size, target) * size, solve_cox(design, target), rtol=1e-5
    )


# --- a penalty per column, weights, ties ---


def slow_objective(design, target, penalty, coefficient):
    """Value and gradient, with the penalty, of the plainly written likelihood."""
    slow = slow_cox(design @ coefficient, target.time, target.event)
    events = target.observed.sum()
    return (
        slow.value / events + float(penalty * coefficient @ coefficient) / 2,
        design.T @ slow.gradient / events + penalty * coefficient,
    )


def test_a_penalty_of_zero_leaves_its_column_free():
    design, target = draw()
    penalty = np.array([0.0, 0.3, 50.0])
    found = solve_cox(design, target, penalty=penalty)
    slow = minimize(
        lambda b: slow_objective(design, target, penalty, b), np.zeros(3), jac=True, tol=1e-10
    ).x
    np.testing.assert_allclose(found, slow, atol=1e-6)
    np.testing.assert_allclose(found[0], solve_cox(design, target)[0], rtol=0.1)
    assert abs(found[2]) < 0.01 * abs(found[0])


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_a_weight_of_zero_takes_a_row_out_and_equal_weights_change_nothing(ties):
    design, target = draw()
    kept = np.arange(len(design)) % 4 != 0
    plain = solve_cox(design[kept], target.take(np.flatnonzero(kept)), penalty=0.1, ties=ties)
    weighted = Outcomes(target.time, target.event, 2.5 * kept)
    np.testing.assert_allclose(solve_cox(design, weighted, penalty=0.1, ties=ties), plain)


def test_a_weight_of_two_equals_two_copies_under_breslow():
    design, target = draw()
    copies = np.arange(len(design)) % 3 + 1
    rows = np.repeat(np.arange(len(design)), copies)
    twice = solve_cox(design[rows], target.take(rows), penalty=0.1, ties="breslow")
    weighted = Outcomes(target.time, target.event, copies)
    np.testing.assert_allclose(
        solve_cox(design, weighted, penalty=0.1, ties="breslow"), twice, atol=1e-9
    )


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["efron", "breslow"]))
def test_gradient_and_hessian_are_the_derivatives_under_weights_and_ties(seed, ties):
    design, target = draw(30, 2, seed)
    assume(target.observed.any())
    rng = np.random.default_rng(seed)
    outcomes = Outcomes(
        target.time, target.event, rng.integers(0, 4, 30) + 0.5 * (target.event == 1)
    )
    likelihood, step = PartialLikelihood.of(design, outcomes, penalty=0.2, ties=ties), 1e-5
    point = rng.normal(size=2)
    around = [[likelihood.at(point + sign * step * axis) for sign in (1, -1)] for axis in np.eye(2)]
    gradient = [(up.value - down.value) / (2 * step) for up, down in around]
    hessian = [(up.gradient - down.gradient) / (2 * step) for up, down in around]
    here = likelihood.at(point)
    np.testing.assert_allclose(here.gradient, gradient, atol=1e-7)
    np.testing.assert_allclose(likelihood.hessian(here) + 0.2 * np.eye(2), hessian, atol=1e-7)


# --- the path ---

PENALTIES = np.logspace(2, -3, 11)


def slow_newton(design, target, penalty, start):
    """Plain Newton steps with an exact Hessian each, until nothing moves."""
    likelihood = PartialLikelihood.of(design, target, penalty=penalty)
    here = likelihood.at(start)
    for _ in range(60):
        hessian = likelihood.hessian(here) + penalty * np.eye(len(start))
        step, length = np.linalg.solve(hessian, here.gradient), 1.0
        there = likelihood.at(here.coefficient - step)
        while not there.value <= here.value + 1e-12 and length > 1e-9:
            length /= 2
            there = likelihood.at(here.coefficient - length * step)
        here = there
        if np.abs(step).max() < 1e-10:
            break
    return here.coefficient


def embedding(n, columns, seed=0):
    """Standardised columns whose variance lies in few directions, and ties in time."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.normal(size=(columns, columns)))[0]
    design = (rng.normal(size=(n, columns)) * np.arange(1, columns + 1) ** -0.7) @ turned
    design /= design.std(0)
    time = np.ceil(rng.exponential(np.exp(-0.5 * design[:, :3].sum(1))) * 100) + 1
    return design, Outcomes(time, rng.choice([0, 1], n))


@pytest.mark.parametrize(("n", "columns"), [(300, 3), (300, 120), (60, 200)])
def test_the_path_equals_plain_newton_steps_at_every_penalty(n, columns):
    design, target = embedding(n, columns)
    found = cox_path(design, target, PENALTIES)
    slow = np.zeros(columns)
    for coefficient, penalty in zip(found, PENALTIES, strict=True):
        slow = slow_newton(design, target, penalty, slow)
        assert np.abs(coefficient - slow).max() < 1e-6 * np.abs(slow).max()
        gradient = slow_objective(design, target, penalty, coefficient)[1]
        np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_many_columns_equal_plain_newton_steps_also_where_they_start_far_off():
    design, target = embedding(200, 90, seed=1)
    expected = slow_newton(design, target, 0.01, np.zeros(90))
    start = np.random.default_rng(0).normal(size=90)
    found = solve_cox(design, target, penalty=0.01, start=start)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_a_path_in_any_order_is_the_same_and_without_an_event_it_is_zero():
    design, target = embedding(100, 40)
    found = cox_path(design, target, PENALTIES)
    np.testing.assert_allclose(
        cox_path(design, target, PENALTIES[::-1])[::-1], found, rtol=0, atol=1e-6 * found.max()
    )
    censored = Outcomes(target.time, np.zeros(100, np.int64))
    assert not cox_path(design, censored, PENALTIES).any()
    assert cox_path(design, target, ()).shape == (0, 40)
