"""Small cohorts and a slow standard error, for the tests of more than one metric."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

FEW = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def cohorts(draw):
    """Small cohorts full of ties.

    At least one comparable pair of different subjects, a case and a control at times 2 to 8.
    """
    n = draw(st.integers(3, 30))
    time = np.array(draw(st.lists(st.integers(1, 8), min_size=n, max_size=n)), float)
    event = np.array(draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=n, max_size=n)))
    risk = np.array(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)), float)
    time[:2], event[:2] = (1.0, 9.0), (1, 0)
    return time, event, risk


def jackknife(value, n):
    """The leave-one-out standard error of a number, or of each of several, that is a function of
    the rows left.
    """
    left_out = np.array([value(np.delete(np.arange(n), k)) for k in range(n)])
    return np.sqrt((n - 1) / n * ((left_out - left_out.mean(0)) ** 2).sum(0))
