"""What a cohort supports: up to which time it can be judged, and what survival curves stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import polars as pl

from concordant.core.errors import PredictionsError
from concordant.core.survival import WEIGHT, Predictions
from concordant.evaluation.protocol import EvaluationProtocol

Tau = Literal["common", "cohort"] | float
"""Up to which time Uno's C and the integrated Brier score run: `common` = the greatest time that
every cohort supports, so that all of them are judged over the same period; `cohort` = all that each
supports; a number = so many days."""


def support_days(predictions: Predictions, protocol: EvaluationProtocol | None = None) -> float:
    """Return the time before which everything is supported.

    Follow-up goes on, and the censoring curve is known and above 0.

    That is the last follow-up time of the cohort and, for `censoring` "train", not beyond the last
    one of train. With cross-validation a metric is computed in each fold by itself: the least over
    folds counts.

    Raises:
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
    if protocol is not None and protocol.censoring == "train" and protocol.train is not None:
        last.append(protocol.train.time.max())
    return float(min(last))


def tau_days(
    tau: Tau, cohorts: Iterable[Predictions], protocol: EvaluationProtocol | None = None
) -> float | None:
    """Return the days that a choice of tau means for these cohorts.

    None = each up to its own support, or no cohort with a row.

    Source: the truncated concordance of Uno et al., Statistics in Medicine 30 (2011), 1105-1117,
    section 2.
    """
    if tau == "cohort":
        return None
    if tau != "common":
        return float(tau)
    times = [support_days(one, protocol) for one in cohorts if not one.table.is_empty()]
    return min(times, default=None)


def incidence_remark(predictions: Predictions, cause: int | None) -> str:
    """Say what 1 - survival stands for if other events compete; else ""."""
    if cause is None or predictions.table["event"].cast(pl.Int64).is_in([0, cause]).all():
        return ""
    return (
        f"1 - survival is read as the cumulative incidence of event {cause}; survival by a model "
        "that censors competing events (a cause-specific Cox model) overstates it"
    )
