"""Predicted survival recalibrated on tuning: fitted per fit, from the model as it was saved.

No model is fitted again for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from jaxtyping import Float

from concordant.core.artifacts import MemberFolder
from concordant.core.errors import MetricError
from concordant.core.survival import Predictions, read_predictions
from concordant.metrics import Recalibration, fit_recalibration
from concordant.study.members import MemberPlan, MemberResult
from concordant.study.units import Unit, tuning_predictions

SUFFIX = "@recalibrated"
"""What the file name of recalibrated predictions adds to the cohort's label."""


def recalibrate(results: Sequence[MemberResult]) -> list[MemberResult]:
    """Return the members with recalibrated survival, and write their predictions beside the others.

    Risks stay as they are.

    Raises:
        MetricError: A tuning part without an event.
        StoreError: A saved model that cannot be read.
    """
    changed = [replace(one, predictions=_recalibrated(one)) for one in results]
    for one in changed:
        for label, predictions in one.predictions.items():
            predictions.write(one.plan.folder.predictions(f"{label}{SUFFIX}"))
    return changed


def remove_recalibrated(results: Sequence[MemberResult]) -> None:
    """Remove what an earlier run with recalibration has left."""
    for one in results:
        for label in one.predictions:
            one.plan.folder.predictions(f"{label}{SUFFIX}").unlink(missing_ok=True)


def fitted_on_tuning(unit: Unit) -> Recalibration:
    """Fit the recalibration of one fit on its tuning part.

    Slope and baseline, or the baseline alone where events are too few.

    Raises:
        MetricError: No event in the tuning part.
    """
    tuning = tuning_predictions(unit)
    target, survival, times = tuning.target, _curves(tuning), unit.times
    try:
        return fit_recalibration(target.time, target.event, survival, times)
    except MetricError:
        return fit_recalibration(target.time, target.event, survival, times, method="baseline")


def _recalibrated(result: MemberResult) -> dict[str, Predictions]:
    fits = {(unit.repeat, unit.fold): fitted_on_tuning(unit) for unit in result.plan.units}
    internal = result.plan.units[0].development.label
    return {
        label: _by_fold(predictions, fits)
        if label == internal
        else _mean_of_fits(result.plan, label, predictions, fits)
        for label, predictions in result.predictions.items()
    }


def _by_fold(
    predictions: Predictions, fits: Mapping[tuple[int | None, int | None], Recalibration]
) -> Predictions:
    """Recalibrate every row by the fit of its own repeat and fold."""
    curves, times = _curves(predictions), predictions.survival_times_days
    assert times is not None  # noqa: S101 # predictions of ours have curves; for the type checker
    changed = np.empty_like(curves)
    keys = list(predictions.table.select("repeat", "fold").iter_rows())
    for key, fitted in fits.items():
        rows = np.array([own == key for own in keys])
        changed[rows] = fitted.apply(curves[rows], times)
    return _with_curves(predictions, changed)


def _mean_of_fits(
    plan: MemberPlan,
    label: str,
    predictions: Predictions,
    fits: Mapping[tuple[int | None, int | None], Recalibration],
) -> Predictions:
    """Average the recalibrated survival of the fold models over them.

    Without folds there is one.
    """
    changed = []
    for unit in plan.units:
        own = read_predictions(MemberFolder(unit.folder).predictions(label))
        changed.append(fits[unit.repeat, unit.fold].apply(_curves(own), unit.times))
    return _with_curves(predictions, np.mean(changed, axis=0))


def _curves(predictions: Predictions) -> Float[np.ndarray, "row time"]:
    survival = predictions.survival
    # predictions of ours have curves; for the type checker
    assert survival is not None  # noqa: S101
    return survival


def _with_curves(predictions: Predictions, survival: Float[np.ndarray, "row time"]) -> Predictions:
    column = pl.Series("survival", survival.tolist(), dtype=pl.List(pl.Float64))
    return Predictions(predictions.table.with_columns(column), predictions.survival_times_days)
