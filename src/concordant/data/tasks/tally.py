"""What building a cohort met in the records: counts, and what a user should look at."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl

from concordant.core.errors import RecordError
from concordant.data.meds import Shard
from concordant.data.tasks.definition import Causes, Task
from concordant.data.tasks.records import ShardRecords

_SHOWN = 8


class Tally:
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
        self._subjects: list[np.ndarray] = []
        self._shards: list[Shard] = []
        self.counts: Counter[str] = Counter()

    def add(self, shard: Shard, records: ShardRecords) -> None:
        """Count what one shard holds."""
        self._shards.append(shard)
        self._subjects.append(records.subjects["subject_id"].to_numpy())
        codes = records.codes
        for name, found in records.sets.items():
            found = pl.concat([found, records.causes[name]]).unique()
            self._codes[name] |= set(found)
            self._events[name] += int(
                codes.join(found.to_frame("code"), on="code", how="semi")["len"].sum()
            )
        vocabulary = codes.group_by(
            pl.col("code").str.splitn("/", 2).struct.field("field_0").alias("name")
        ).agg(pl.col("len").sum())
        self._vocabularies.update(dict(vocabulary.iter_rows()))
        self._count(records)

    def _count(self, records: ShardRecords) -> None:
        static = records.events.filter(pl.col("time").is_null())
        died = static.filter(pl.col("code").is_in(records.death.implode()))
        self.counts["subjects in the dataset"] += records.subjects.height
        self.counts["events in the dataset"] += int(records.codes["len"].sum())
        self.counts["subjects who died"] += records.subjects["death"].count()
        self.counts["deaths with a cause"] += records.n_deaths_with_cause
        self.counts["deaths without a time, passed over"] += died.height
        self.counts["events of the task without a time, never an index or an outcome"] += (
            static.height - died.height
        )
        for kind, visits in records.visits.items():
            self.counts[f"visits: {kind}"] += visits.n_visits
            self.counts[f"visits without an end, taken as an instant: {kind}"] += (
                visits.n_without_end
            )

    def check_shards(self) -> None:
        """Check that no subject lies in two shards.

        Raises:
            RecordError: One does.
        """
        if not self._subjects:
            return
        owner = np.repeat(np.arange(len(self._subjects)), [len(one) for one in self._subjects])
        subjects = np.concatenate(self._subjects)
        order = np.argsort(subjects, kind="stable")
        twice = np.flatnonzero(subjects[order][1:] == subjects[order][:-1])
        if len(twice):
            first, second = (
                self._shards[owner[order[place]]].path for place in (twice[0], twice[0] + 1)
            )
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
        found = (
            [f"no code of the dataset belongs to {unmet}; {self.vocabularies()}"] if unmet else []
        )
        if self._task.asks_causes and not self.counts["deaths with a cause"]:
            found.append(
                "no death in the dataset states a cause (MEDS_DEATH//CAUSE), so no death by cause "
                "can be found"
            )
        for part in ("include", "exclude"):
            ahead = [
                str(criterion) for criterion in getattr(self._task, part) if criterion.looks_ahead
            ]
            found += [
                f"{part}: {one}: the window reaches beyond the index, so who takes part depends on "
                "the future"
                for one in ahead
            ]
        return tuple(found)

    def outcome_is_possible(self) -> bool:
        """Tell whether any code of the dataset could be the outcome; a death always could."""
        parts = [part for _, part in self._task.outcome.parts("")]
        named = [
            name
            for part in parts
            for name in (
                *(part.codes or ()),
                *(part.death.causes if isinstance(part.death, Causes) else ()),
            )
        ]
        return any(part.death is True for part in parts) or any(self._codes[name] for name in named)

    def vocabularies(self) -> str:
        """Say how the codes of the dataset begin, the most frequent first."""
        names = sorted(self._vocabularies, key=lambda name: (-self._vocabularies[name], name))[
            :_SHOWN
        ]
        more = ", ..." if len(self._vocabularies) > _SHOWN else ""
        return f"its codes begin with {', '.join(names) or 'nothing'}{more}"
