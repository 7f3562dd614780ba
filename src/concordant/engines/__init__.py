"""One way to run independent tasks: shards, fits, scans, simulation.

Nothing heavy is imported here, so that a worker sets its threads before anything loads numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TypeVar

from concordant.core.errors import ConfigError, did_you_mean
from concordant.engines.base import ENGINES, Engine, Failure, Outcome
from concordant.engines.local import LocalEngine
from concordant.engines.ray import RayEngine

__all__ = [
    "ENGINES",
    "Engine",
    "Failure",
    "LocalEngine",
    "Outcome",
    "RayEngine",
    "make_engine",
    "run_tasks",
]

T = TypeVar("T")
R = TypeVar("R")

ENGINES.update(local=LocalEngine, ray=RayEngine)


def make_engine(name: str, workers: int | None = None, address: str | None = None) -> Engine:
    """Return an engine as the command line names it.

    Args:
        name: A name in `ENGINES`.
        workers: Processes ("local"; one per processor unless given), or processors that each task
            reserves ("ray"; one unless given).
        address: Of a Ray cluster that runs ("auto" finds one on this machine); None starts one of
            this machine alone.

    Raises:
        ConfigError: An unknown engine, fewer than one worker, or an address it has no use for.
    """
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}.{did_you_mean(name, ENGINES)}")
    return ENGINES[name].of(workers, address)


def run_tasks(
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    engine: Engine | None = None,
    imports: Sequence[str] = (),
    on_done: Callable[[Outcome[R]], None] | None = None,
) -> tuple[Outcome[R], ...]:
    """Run a function on every task and return the outcomes in the order of the tasks.

    A task that raises, or whose process dies, yields a failure; the others go on. An interrupt
    (Ctrl-C) stops the work, then is raised.

    Args:
        function: A function of a module; it and the tasks must be picklable where they run in
            other processes.
        tasks: One argument each: a reference (a path, a number) rather than data.
        engine: Where they run; in this process unless given.
        imports: Modules that are imported first where they run, so that components registered
            outside this package are known there.
        on_done: Called in this process with each outcome as it comes.
    """
    outcomes: list[Outcome[R]] = []
    with closing((engine or LocalEngine()).run(function, tasks, imports=imports)) as running:
        for outcome in running:
            outcomes.append(outcome)
            if on_done is not None:
                on_done(outcome)
    return tuple(sorted(outcomes, key=lambda outcome: outcome.index))
