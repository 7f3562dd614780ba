"""What an engine is, and what it tells of a task."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Generic, Self, TypeVar

from concordant.core.errors import ConcordantError

T = TypeVar("T")
R = TypeVar("R")

CRASH = "WorkerCrash"
"""Kind of a failure where the process of a task died."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result.

    Attributes:
        kind: Name of the exception's class, or `CRASH` where the process died.
        message: The exception's message.
        expected: True for a `ConcordantError`: the input is at fault and the message says what to
            do.
        details: The traceback; empty for a crash.
    """

    kind: str
    message: str
    expected: bool = False
    details: str = ""

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Keep an exception as text, which always passes between processes."""
        details = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), isinstance(error, ConcordantError), details)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of one task.

    Attributes:
        index: Position of the task in the sequence given.
        value: What the function returned; None after a failure.
        failure: Why there is no value, or None.
    """

    index: int
    value: R | None = None
    failure: Failure | None = None


class Engine(ABC):
    """Runs independent tasks, somewhere.

    The contract (one test per line, run over the engines):

    * Every task has one outcome, which comes as soon as it is known, in any order.
    * A task that raises is a failure, and the others go on.
    * A task whose process dies is a failure, and the others go on; a task may therefore run twice.
    * Tasks are taken a few ahead, and what they need travels with them.
    * Closing the generator ends what runs.

    Attributes:
        is_remote: Whether tasks may run on other machines, so that what this process holds does not
            serve them.
    """

    is_remote: ClassVar[bool]

    @classmethod
    @abstractmethod
    def of(cls, workers: int | None, address: str | None) -> Self:
        """Make the engine from what the command line takes, or raise a ConfigError."""

    @property
    @abstractmethod
    def processes(self) -> int:
        """Processes that may be started beside one process: this one, or that of a remote task."""

    @abstractmethod
    def run(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        imports: Sequence[str] = (),
        gpu: bool = False,
    ) -> Generator[Outcome[R]]:
        """Run a function on every task and yield the outcomes as they come.

        Args:
            function: As in `run_tasks`.
            tasks: As in `run_tasks`.
            imports: As in `run_tasks`.
            gpu: Whether each remote task reserves a GPU, where there are any.
        """


ENGINES: dict[str, type[Engine]] = {}
"""Engines by name."""


def attempt(
    function: Callable[[Any], Any], task: Any, imports: Sequence[str], index: int
) -> Outcome[Any]:
    """Run a function on a task in this process and return what became of it.

    Modules in `imports` come first.
    """
    try:
        for module in imports:
            import_module(module)
        return Outcome(index, function(task))
    except Exception as error:
        return Outcome(index, failure=Failure.of(error))
