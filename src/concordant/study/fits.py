"""A fit as a task of any process: taken, run, and left as a folder that is whole or not there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from concordant.core.artifacts import FitFolder
from concordant.core.errors import MetricError, StoreError
from concordant.core.files import atomic_folder, file_digest, read_json, write_json
from concordant.metrics import concordance_index
from concordant.study.drivers import Lease
from concordant.study.workspace import LEARNED, Work, Workspace, open_workspace, part_of
from concordant.training.checkpoint import save_fitted
from concordant.training.fit import FitFailed, FitRequest, FittedModel, fit_many
from concordant.training.prepare import FoldData


@dataclass(frozen=True, slots=True)
class FitTask:
    """A fit by reference.

    Attributes:
        workspace: Folder that the processes of the run share.
        number: Position of the fit in the plan.
        lease: How it is kept from other drivers of the same run; None where there are none.
    """

    workspace: Path
    number: int
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class PartPredictions:
    """What a fit predicts for a part.

    Attributes:
        risk: Log-hazard scale, higher = earlier event.
        survival: S(t) at the plan's times.
    """

    risk: Float[np.ndarray, " sample"]
    survival: Float[np.ndarray, "sample time"]


def run_fit(task: FitTask) -> str | None:
    """Fit, predict and write a fit's folder whole; do nothing where another driver has it in hand.

    Returns:
        Why the fit failed, which is written beside its folder; None where it did not.
    """
    space = open_workspace(task.workspace)
    work = space.work(task.number)
    if task.lease is None:
        return None if is_done(FitFolder(work.folder), work.fingerprint) else _fit(space, work)
    with task.lease.of(f"fit-{task.number}") as mine:
        folder = FitFolder(work.folder)
        if not mine or is_done(folder, work.fingerprint) or failure_of(folder, work.fingerprint):
            return None
        return _fit(space, work)


def is_done(folder: FitFolder, fingerprint: str) -> bool:
    """Return whether a folder holds the result of exactly this fit, files of the right sizes."""
    account = _read(folder.account)
    files = account.get("files", {})
    return (
        account.get("fingerprint") == fingerprint
        and bool(files)
        and all(_size(folder.path / name) == size for name, (size, _) in files.items())
    )


def is_intact(folder: FitFolder) -> bool:
    """Return whether the files of a finished fit are, byte for byte, what it has written."""
    files = _read(folder.account).get("files", {})
    try:
        return bool(files) and all(
            file_digest(folder.path / name) == digest for name, (_, digest) in files.items()
        )
    except OSError:
        return False


def failure_of(folder: FitFolder, fingerprint: str) -> str | None:
    """Return why exactly this fit failed, or None."""
    told = _read(folder.failure)
    return told["reason"] if told.get("fingerprint") == fingerprint else None


def read_account(folder: FitFolder) -> dict[str, Any]:
    """Return what a finished fit came to.

    Raises:
        StoreError: It is not there, or damaged.
    """
    account = _read(folder.account)
    if not account:
        raise StoreError(f"{folder.path}: the fit is not there or damaged; run the study again")
    return account


def read_fit(folder: FitFolder) -> dict[str, PartPredictions]:
    """Return the predictions of a finished fit per part: tuning, test, external.1, ...

    Raises:
        StoreError: The file is not there, or damaged.
    """
    try:
        arrays = load_file(folder.predictions)
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{folder.predictions}: not readable ({error}); run the study again"
        ) from None
    parts = {name.removesuffix("/risk") for name in arrays if name.endswith("/risk")}
    return {
        part: PartPredictions(arrays[f"{part}/risk"], arrays[f"{part}/survival"]) for part in parts
    }


def _fit(space: Workspace, work: Work) -> str | None:
    started = time.monotonic()
    data = space.data(work)
    (fitted,) = fit_many(data, [FitRequest(work.spec, work.options, work.seed)])
    if isinstance(fitted, FitFailed):
        told = {"fingerprint": work.fingerprint, "reason": fitted.reason, "details": fitted.details}
        write_json(FitFolder(work.folder).failure, told)
        return fitted.reason
    parts = ["tuning", *(part_of(place) for place in range(len(space.labels)))]
    predicted = {part: _predict(fitted, data, part, space.times) for part in parts}
    # the account holds the digests of the rest: a file cut short by a failing machine is noticed
    with atomic_folder(work.folder, fsync=["fit.json"]) as temporary:
        save_fitted(fitted, temporary)
        arrays = {
            f"{part}/{name}": np.ascontiguousarray(getattr(one, name))
            for part, one in predicted.items()
            for name in ("risk", "survival")
        }
        folder = FitFolder(temporary)
        save_file(arrays, folder.predictions)
        account = _account(fitted, work, data, predicted["tuning"])
        seconds = round(time.monotonic() - started, 3)
        write_json(folder.account, {**account, "seconds": seconds, "files": _digests(temporary)})
    FitFolder(work.folder).failure.unlink(missing_ok=True)
    return None


def _predict(
    fitted: FittedModel, data: FoldData, part: str, times: Float[np.ndarray, " time"]
) -> PartPredictions:
    risk = fitted.predict_part(data, part).risk
    return PartPredictions(risk, fitted.survival(risk, times))


def _account(
    fitted: FittedModel, work: Work, data: FoldData, tuning: PartPredictions
) -> dict[str, Any]:
    target = data.targets["tuning"]
    try:
        concordance: float | None = concordance_index(
            target.time, target.event, tuning.risk
        ).estimate
    except MetricError:  # no comparable pair in a small tuning part: it recommends nothing
        concordance = None
    return {
        "fingerprint": work.fingerprint,
        "facts": work.facts,
        "tuning_concordance": concordance,
        "tuning_loss": fitted.tuning_loss,
        "train_mean_risk": float(fitted.model.mean_risk),
        "n_parameters": fitted.n_parameters,
        "n": {part: len(data.targets[part]) for part in LEARNED},
        "n_events_train": fitted.events,
        "device": str(fitted.model.mean_risk.device),
    }


def _digests(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and digest of each file of a fit."""
    return {
        path.name: (path.stat().st_size, file_digest(path)) for path in sorted(folder.iterdir())
    }


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none that can be read."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
