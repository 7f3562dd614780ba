"""Folds for small cohorts: stratified by event, whole groups, repeatable."""

from __future__ import annotations

import numpy as np
import polars as pl
from jaxtyping import Int


def draw_folds(
    event: Int[np.ndarray, " sample"], group: Int[np.ndarray, " sample"], *, folds: int, seed: int
) -> Int[np.ndarray, " sample"]:
    """Return the fold of each sample.

    Groups are shuffled, then dealt from the one with most events to the one with fewest, each to
    the fold that has fewest events so far (then fewest samples): events are spread as evenly as
    whole groups allow.

    Args:
        event: 1 = observed.
        group: Samples with the same number are never divided.
        folds: Number of folds, >= 2.
        seed: Seed of the draw.
    """
    _, member = np.unique(group, return_inverse=True)
    sizes = np.bincount(member)
    events = np.bincount(member, weights=event == 1).astype(np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.lexsort((-sizes[shuffled], -events[shuffled]))]
    fold_events, fold_sizes = np.zeros(folds, np.int64), np.zeros(folds, np.int64)
    chosen = np.zeros(len(sizes), np.int64)
    for one in order:
        # a group without events goes where samples are few; one with events where events are few
        keys = (fold_sizes, fold_events) if events[one] else (fold_events * 0, fold_sizes)
        place = int(np.lexsort(keys)[0])
        chosen[one] = place
        fold_events[place] += events[one]
        fold_sizes[place] += sizes[one]
    return chosen[member]


def assign_folds(
    table: pl.DataFrame, *, group: str, folds: int, repeats: int, seed: int
) -> pl.DataFrame:
    """Draw folds anew for each repeat.

    Args:
        table: `sample_id`, `event` and the group column; a null group is a group of its own.
        group: Column whose values are never divided.
        folds: Number of folds.
        repeats: Number of draws.
        seed: Seed of the first draw.

    Returns:
        `sample_id`, `repeat`, `fold`.
    """
    event, groups = table["event"].to_numpy(), group_numbers(table, group)
    drawn = [
        table.select("sample_id").with_columns(
            pl.lit(repeat, pl.Int16).alias("repeat"),
            pl.Series(
                "fold", draw_folds(event, groups, folds=folds, seed=seed + repeat), dtype=pl.Int16
            ),
        )
        for repeat in range(repeats)
    ]
    return pl.concat(drawn)


def group_numbers(table: pl.DataFrame, group: str) -> Int[np.ndarray, " sample"]:
    """Return a number per sample that is the same within a group.

    A null group is a group of its own.
    """
    return (
        table.select(
            pl.coalesce(
                pl.col(group).cast(pl.String), pl.format("null {}", pl.int_range(pl.len()))
            ).rank("dense")
        )[group]
        .to_numpy()
        .astype(np.int64)
    )
