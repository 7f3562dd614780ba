"""What building a cohort met in the records: counts, and what a user should look at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from concordant.core.errors import RecordError
from concordant.data.meds import Shard
from concordant.data.tasks.definition import Causes, Task
from concordant.data.tasks.records import ShardRecords

_SHOWN = 8


class TaskCounts:
    """Counts over all shards.

    Attributes:
        counts: By what was counted, how many.
    """

    def __init__(self, task: Task) -> None:
        """Start at nothing."""
        self._task = task
        self._codes: dict[str, set[str]] = {name: set() for name in task.sets_used}
        self._events: Counter[str] = Counter()
        self._vocabularies: Counter[str] = Counter()
        self._subjects: dict[Path, np.ndarray] = {}
        self.counts: Counter[str] = Counter()

    def add(self, shard: Shard, records: ShardRecords) -> None:
        """Count what one shard holds."""
        self._subjects[shard.path] = records.subjects["subject_id"].to_numpy()
        for name, found in records.sets.items():
            found = pl.concat([found, records.causes[name]]).unique()
            self._codes[name] |= set(found)
            events = records.codes.join(found.to_frame("code"), on="code", how="semi")["len"]
            self._events[name] += int(events.sum())
        beginning = pl.col("code").str.splitn("/", 2).struct.field("field_0").alias("name")
        vocabulary = records.codes.group_by(beginning).agg(pl.col("len").sum())
        self._vocabularies.update(dict(vocabulary.iter_rows()))
        self.counts.update(_counts(records))

    def check_shards(self) -> None:
        """Check that no subject lies in two shards.

        Raises:
            RecordError: One does.
        """
        paths, parts = list(self._subjects), list(self._subjects.values())
        subjects = np.concatenate([np.zeros(0, np.int64), *parts])
        owner = np.repeat(np.arange(len(paths)), [len(one) for one in parts])
        order = np.argsort(subjects, kind="stable")
        twice = np.flatnonzero(subjects[order][1:] == subjects[order][:-1])
        if len(twice):
            first, second = (paths[owner[one]] for one in order[twice[0] : twice[0] + 2])
            raise RecordError(
                f"{second}: {len(twice)} subject_id(s) lie in two shards (also in {first}, for "
                "one); MEDS has each subject in one shard: write all events of a subject to the "
                "same file"
            )

    def code_sets(self) -> dict[str, dict[str, int]]:
        """Return how many codes and events of each code set there are."""
        return {
            name: {"codes": len(codes), "events": self._events[name]}
            for name, codes in self._codes.items()
        }

    def warnings(self) -> tuple[str, ...]:
        """Say what a user should look at."""
        unmet = ", ".join(name for name, codes in self._codes.items() if not codes)
        found = []
        if unmet:
            found.append(f"no code of the dataset belongs to {unmet}; {self.vocabularies()}")
        if self._task.asks_causes and not self.counts["deaths with a cause"]:
            found.append(
                "no death in the dataset states a cause (MEDS_DEATH//CAUSE), so no death by cause "
                "can be found"
            )
        for part, criteria in (("include", self._task.include), ("exclude", self._task.exclude)):
            found += [
                f"{part}: {one}: the window reaches beyond the index, so who takes part depends on "
                "the future"
                for one in criteria
                if one.looks_ahead
            ]
        return tuple(found)

    def outcome_is_possible(self) -> bool:
        """Tell whether any code of the dataset could be the outcome; a death always could."""
        named: list[str] = []
        for _, part in self._task.outcome.parts(""):
            if part.death is True:
                return True
            named += part.codes or ()
            named += part.death.causes if isinstance(part.death, Causes) else ()
        return any(self._codes[name] for name in named)

    def vocabularies(self) -> str:
        """Say how the codes of the dataset begin, the most frequent first."""
        names = sorted(self._vocabularies, key=lambda name: (-self._vocabularies[name], name))
        more = ", ..." if len(names) > _SHOWN else ""
        return f"its codes begin with {', '.join(names[:_SHOWN]) or 'nothing'}{more}"


def _counts(records: ShardRecords) -> dict[str, int]:
    static = records.events.filter(pl.col("time").is_null())
    died = int(static["code"].is_in(records.death.implode()).sum())
    counts = {
        "subjects in the dataset": records.subjects.height,
        "events in the dataset": int(records.codes["len"].sum()),
        "subjects who died": records.subjects["death"].count(),
        "deaths with a cause": records.n_deaths_with_cause,
        "deaths without a time, passed over": died,
        "events of the task without a time, never an index or an outcome": static.height - died,
    }
    for kind, visits in records.visits.items():
        counts[f"visits: {kind}"] = visits.n_visits
        counts[f"visits without an end, taken as an instant: {kind}"] = visits.n_without_end
    return counts
