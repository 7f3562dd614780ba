"""All fits of a plan, done by an engine, by one driver or by several that share the run folder."""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from concordant.core.errors import DiskFullError
from concordant.core.files import write_json
from concordant.embeddings.extract import Progress
from concordant.engines import Engine, Failure, Outcome, run_tasks
from concordant.engines.base import CRASH
from concordant.study.data import StudyData
from concordant.study.drivers import Lease
from concordant.study.fits import FitTask, failure_of, is_done, is_intact, run_fit
from concordant.study.plan import Fit, Plan
from concordant.study.workspace import open_workspace, release_memory, write_workspace

_LOG = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a fit is begun whose process dies: a machine may kill a process for another's sake."""

_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the fits.

    Attributes:
        engine: Where they are run.
        imports: Modules that register components of the study.
        lease: What keeps the drivers that share the run apart; None for a driver on its own.
    """

    engine: Engine
    imports: tuple[str, ...] = ()
    lease: Lease | None = None


def fit_all(plan: Plan, data: StudyData, crew: Crew, progress: Progress | None) -> None:
    """Do every fit that is not done yet; one that fails leaves its reason, and the others go on."""
    if crew.lease is None:
        for fit in plan.fits:  # what failed in an earlier run is tried again
            fit.folder.failure.unlink(missing_ok=True)
    waiting = _waiting(plan)
    fitting = _Fitting(plan, crew, progress, Counter(plan.fits[number].fold for number in waiting))
    fitting.tell()
    while waiting:
        space = write_workspace(plan, data)
        fitting.run(space, waiting)
        still = _waiting(plan)
        if len(still) == len(waiting):
            time.sleep(_PAUSE_SECONDS)  # another driver has them in hand
        waiting = still
        fitting.settle(waiting)
    release_memory()
    shutil.rmtree(plan.run.work, ignore_errors=True)


def discard_altered(plan: Plan) -> bool:
    """Remove fits whose files are not what was written; returns whether there were any."""
    altered = [fit for fit in plan.fits if not _has_failed(fit) and not is_intact(fit.folder)]
    for fit in altered:
        _LOG.warning("%s: a file of it was altered; it is fitted again", plan.name(fit))
        shutil.rmtree(fit.folder.path, ignore_errors=True)
    return bool(altered)


def failures(plan: Plan) -> dict[str, str]:
    """Return why fits failed, by their names."""
    reasons = {plan.name(fit): failure_of(fit.folder, fit.fingerprint) for fit in plan.fits}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _has_failed(fit: Fit) -> bool:
    return failure_of(fit.folder, fit.fingerprint) is not None


def _waiting(plan: Plan) -> list[int]:
    return [
        number
        for number, fit in enumerate(plan.fits)
        if not is_done(fit.folder, fit.fingerprint) and not _has_failed(fit)
    ]


@dataclass
class _Fitting:
    """The fits of one driver as they go on."""

    plan: Plan
    crew: Crew
    progress: Progress | None
    left: Counter[int]
    attempts: Counter[int] = field(default_factory=Counter)

    def run(self, space: Path, waiting: Sequence[int]) -> None:
        """Run fits; which of several drivers does which is settled by leases, fit by fit."""
        order = list(waiting)
        if self.crew.lease is not None:  # each driver begins elsewhere
            start = random.SystemRandom().randrange(len(order))
            order = order[start:] + order[:start]
        self.attempts.update(order)
        run_tasks(
            run_fit,
            [FitTask(space, number, self.crew.lease) for number in order],
            engine=self.crew.engine,
            imports=self.crew.imports,
            on_done=lambda outcome: self._settled(space, order[outcome.index], outcome),
        )

    def settle(self, waiting: Sequence[int]) -> None:
        """Take note of what is left, by whomever the rest was done."""
        left = Counter(self.plan.fits[number].fold for number in waiting)
        if left.total() != self.left.total():
            self.left = left
            self.tell()

    def tell(self) -> None:
        """Tell the progress."""
        if self.progress is not None:
            total = len(self.plan.fits)
            self.progress("fits", total - self.left.total(), total)

    def _settled(self, space: Path, number: int, outcome: Outcome[str | None]) -> None:
        fit = self.plan.fits[number]
        if outcome.failure is not None:
            if outcome.failure.kind == DiskFullError.__name__:  # no other fit would fare better
                raise DiskFullError(outcome.failure.message)
            again = outcome.failure.kind == CRASH and self.attempts[number] < ATTEMPTS
            if again:
                return
            _write_failure(fit, outcome.failure)
        if self.crew.lease is None:  # of others' fits is heard when this driver's are through
            self.left[fit.fold] -= 1
            self.tell()
            if not self.left[fit.fold]:
                open_workspace(space).forget(fit.fold)


def _write_failure(fit: Fit, failure: Failure) -> None:
    _LOG.error("%s: %s: %s\n%s", fit.folder.path, failure.kind, failure.message, failure.details)
    reason = failure.message if failure.expected else f"{failure.kind}: {failure.message}"
    told = {"fingerprint": fit.fingerprint, "reason": reason, "details": failure.details}
    write_json(fit.folder.failure, told)
