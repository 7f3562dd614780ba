"""Folds: whole groups, events spread, the same again from the same seed."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from concordant.training.folds import assign_folds, draw_folds, group_numbers

ROWS = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 2)), min_size=5, max_size=60)


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(2, 5), st.integers(0, 1000))
def test_groups_stay_whole_and_no_fold_has_more_events_than_another_by_more_than_one_group(
    rows, folds, seed
):
    group, event = (np.array(column) for column in zip(*rows, strict=True))
    fold = draw_folds(event, group, folds=folds, seed=seed)
    assert ((fold >= 0) & (fold < folds)).all()
    assert all(len(np.unique(fold[group == one])) == 1 for one in np.unique(group))
    events = np.bincount(fold, event == 1, minlength=folds)
    assert np.ptp(events) <= np.bincount(group, event == 1).max()
    if len(np.unique(group)) >= folds:
        assert set(fold) == set(range(folds)), "an empty fold"


def test_single_samples_are_spread_evenly_in_events_and_in_number():
    event = np.array([1] * 27 + [0] * 73)
    fold = draw_folds(event, np.arange(100), folds=5, seed=0)
    assert sorted(np.bincount(fold, event)) == [5, 5, 5, 6, 6]
    assert np.ptp(np.bincount(fold)) <= 1


def test_a_large_group_takes_no_more_than_its_share_of_events():
    """Ten groups with one event each, the first of many samples.

    Five events to each fold, whatever the sizes.
    """
    group = np.array([0] * 12 + list(range(1, 10)))
    event = np.array([1] + [0] * 11 + [1] * 9)
    fold = draw_folds(event, group, folds=2, seed=0)
    assert np.bincount(fold, event).tolist() == [5, 5]


def test_a_competing_event_is_no_event_of_interest():
    event = np.array([1] * 10 + [2] * 10)
    fold = draw_folds(event, np.arange(20), folds=5, seed=0)
    assert np.bincount(fold, event == 1).tolist() == [2] * 5


def test_the_seed_decides_and_another_seed_draws_anew():
    event, group = np.array([1, 0] * 30), np.arange(60)
    first = draw_folds(event, group, folds=5, seed=1)
    np.testing.assert_array_equal(first, draw_folds(event, group, folds=5, seed=1))
    assert (first != draw_folds(event, group, folds=5, seed=2)).mean() > 0.5


def test_the_numbers_of_groups_are_of_no_account():
    event, group = np.array([1, 0, 0] * 20), np.arange(60) // 3
    expected = draw_folds(event, group, folds=4, seed=0)
    np.testing.assert_array_equal(draw_folds(event, group * 1000 + 7, folds=4, seed=0), expected)


def table(site):
    n = len(site)
    return pl.DataFrame(
        {
            "sample_id": [f"s{row}" for row in range(n)],
            "event": [row % 3 == 0 for row in range(n)],
            "site": site,
        }
    ).with_columns(pl.col("event").cast(pl.Int8))


def test_assignments_name_every_sample_once_per_repeat_and_repeats_differ():
    drawn = assign_folds(
        table([row // 2 for row in range(40)]), group="site", folds=4, repeats=3, seed=5
    )
    assert drawn.columns == ["sample_id", "repeat", "fold"]
    assert (
        drawn.group_by("repeat").agg(pl.col("sample_id").n_unique())["sample_id"].to_list()
        == [40] * 3
    )
    first, second = (
        drawn.filter(pl.col("repeat") == repeat)["fold"].to_list() for repeat in (0, 1)
    )
    assert first != second
    one = assign_folds(
        table([row // 2 for row in range(40)]), group="site", folds=4, repeats=1, seed=6
    )
    assert one["fold"].to_list() == second, "repeat r is the draw of seed + r"


def test_a_null_group_is_a_group_of_its_own():
    numbers = group_numbers(table(["a", None, "b", None, "a"]), "site")
    assert numbers[0] == numbers[4]
    assert len(set(numbers)) == 4
