"""Up to which time a cohort supports a metric, and the one time that several cohorts support."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import polars as pl

from concordant.core.errors import ConfigError, PredictionsError
from concordant.core.survival import Predictions, SurvivalTarget
from concordant.evaluation.measures import CensoringSource
from concordant.metrics.base import WEIGHT

Tau = Literal["common", "cohort"] | float
"""Up to which time Uno's C and the integrated Brier score run: `common` = the greatest time that
every cohort supports, so that all of them are judged over the same period; `cohort` = all that each
supports; a number = so many days."""


def support_days(
    predictions: Predictions,
    *,
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> float:
    """Return the time before which everything is supported.

    Follow-up goes on, and the censoring curve is known and above 0.

    That is the last follow-up time of the cohort and, for `censoring` "train", not beyond the last
    one of train. With cross-validation a metric is computed in each fold by itself: the least over
    folds counts.

    Args:
        predictions: One cohort's predictions.
        censoring: Whose censoring curve the metrics use.
        train: Outcomes of train, for `censoring` "train".

    Raises:
        ConfigError: No `train` where it is needed.
        PredictionsError: No row.
    """
    table = predictions.table
    if WEIGHT in table.columns:
        table = table.filter(pl.col(WEIGHT) > 0)
    if table.is_empty():
        raise PredictionsError(
            "the predictions table holds no row: there is no time that it supports"
        )
    last = table.group_by("repeat", "fold").agg(pl.col("time_days").max())["time_days"].to_list()
    if censoring != "train":
        return float(min(last))
    if train is None:
        raise ConfigError(
            "censoring 'train' needs train's outcomes; give `train`, or censoring 'cohort'"
        )
    return float(min(*last, train.time.max()))


def common_tau(
    cohorts: Iterable[Predictions],
    *,
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> float | None:
    """Return the greatest time that every cohort supports (see `support_days`); None without any.

    Source: the truncated concordance of Uno et al., Statistics in Medicine 30 (2011), 1105-1117,
    section 2.
    """
    times = [
        support_days(one, censoring=censoring, train=train)
        for one in cohorts
        if not one.table.is_empty()
    ]
    return min(times, default=None)


def tau_days(
    tau: Tau,
    cohorts: Iterable[Predictions],
    *,
    censoring: CensoringSource = "cohort",
    train: SurvivalTarget | None = None,
) -> float | None:
    """Return the days that a choice of tau means for these cohorts.

    None = each up to its own support.
    """
    if tau == "cohort":
        return None
    return common_tau(cohorts, censoring=censoring, train=train) if tau == "common" else float(tau)
