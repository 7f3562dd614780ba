from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.metrics.ordering import ascending

FEW = settings(max_examples=50, deadline=None, derandomize=True)


@FEW
@given(
    st.lists(
        st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, 5e-324]),
        max_size=60,
    )
)
def test_any_numbers_are_brought_into_order(values):
    given_values = np.array(values, np.float64)
    rows = ascending(given_values)
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(values)))
    np.testing.assert_array_equal(given_values[rows], np.sort(given_values))


@pytest.mark.parametrize("size", [1, 2, 3000])
@pytest.mark.parametrize(
    "draw",
    [
        lambda g, n: g.normal(size=n),
        lambda g, n: np.round(g.normal(size=n), 1) + 0.0,  # without -0.0
        lambda g, n: np.exp(30 * g.normal(size=n)),
        lambda g, n: (
            1 + g.integers(0, 50, n) * np.finfo(float).eps
        ),  # agree in all leading bits: out of order without the second pass
        lambda g, n: 1 + g.permutation(n) * np.finfo(float).eps,
        lambda g, n: np.zeros(n),
    ],
)
def test_the_order_is_that_of_a_stable_sort(draw, size):
    values = draw(np.random.default_rng(size), size)
    np.testing.assert_array_equal(ascending(values), np.argsort(values, kind="stable"))


def test_a_column_of_a_table_is_sorted_where_it_lies():
    table = np.random.default_rng(1).normal(size=(500, 3))
    np.testing.assert_array_equal(ascending(table[:, 1]), np.argsort(table[:, 1]))
