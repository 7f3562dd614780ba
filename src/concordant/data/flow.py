"""How many samples and subjects each step of building a cohort removed, as CONSORT has it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl


@dataclass(frozen=True, slots=True)
class FlowStep:
    """One step.

    Attributes:
        name: What a sample must be or have to pass.
        removed_samples: Samples that it removed.
        removed_subjects: Subjects who lost their last sample by it.
        samples: Samples that remain.
        subjects: Subjects who remain.
    """

    name: str
    removed_samples: int
    removed_subjects: int
    samples: int
    subjects: int


@dataclass(frozen=True, slots=True)
class Flow:
    """How a cohort came about.

    Attributes:
        steps: Every step, in order; the first is where samples come from.
        events: Number of samples by what happened: `censored`, `outcome`, `competing 2`, ...
        counts: Further counts by what was counted.
        code_sets: By name of a code set, the number of its `codes` that the records use and of
            their `events`.
        warnings: What a user should look at.
        made_from: From what: the task or the options as they were resolved, and where the data lay.
    """

    steps: tuple[FlowStep, ...]
    events: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    code_sets: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    made_from: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `flow.json` holds."""
        return asdict(self)


class FlowCounter:
    """Counts what remains after each step, over all shards."""

    def __init__(self) -> None:
        """Start with no step."""
        self._remaining: dict[str, tuple[int, int]] = {}
        self.counts: Counter[str] = Counter()

    def note(self, name: str, samples: int, subjects: int) -> None:
        """Add to what remains after a step; steps keep the order in which they first came."""
        before = self._remaining.get(name, (0, 0))
        self._remaining[name] = (before[0] + samples, before[1] + subjects)

    def passed(self, name: str, samples: pl.DataFrame) -> pl.DataFrame:
        """Note what remains, and return it."""
        self.note(name, samples.height, samples["subject_id"].n_unique())
        return samples

    def steps(self) -> tuple[FlowStep, ...]:
        """Return the steps so far."""
        made: list[FlowStep] = []
        for name, (samples, subjects) in self._remaining.items():
            before = made[-1] if made else FlowStep("", 0, 0, samples, subjects)
            removed = before.samples - samples, before.subjects - subjects
            made.append(FlowStep(name, *removed, samples, subjects))
        return tuple(made)


def events_by_name(event: pl.Series, n_competing: int) -> dict[str, int]:
    """Count samples by what happened to them."""
    competing = (f"competing {number}" for number in range(2, 2 + n_competing))
    names = ("censored", "outcome", *competing)
    return {name: int((event == number).sum()) for number, name in enumerate(names)}
