"""Code sets of a task, with what an ontology puts below them, held against the codes that the
records use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from concordant.core.errors import ConfigError
from concordant.data.tasks.definition import CodeSet, Task
from concordant.data.tasks.matcher import CodeMatcher
from concordant.data.tasks.ontology import Ontology, read_ontology


@dataclass(frozen=True, slots=True)
class TaskCodes:
    """Everything that a task looks for in the records.

    Attributes:
        sets: By name, the code sets that the task uses.
        starts: By kind of visit, what begins one.
        ends: By kind of visit, what ends one.
        birth: The birth event.
        death: The death event.
        death_beginnings: What stands before the cause in a code of death.
        notes: What a user should know of how the sets came about.
    """

    sets: Mapping[str, CodeMatcher]
    starts: Mapping[str, CodeMatcher]
    ends: Mapping[str, CodeMatcher]
    birth: CodeMatcher
    death: CodeMatcher
    death_beginnings: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    def causes(self, deaths: pl.Series) -> pl.DataFrame:
        """Split codes of death: `code` and `cause`, null where it states none."""
        cause = pl.coalesce(
            *(
                pl.when(pl.col("code").str.starts_with(start)).then(
                    pl.col("code").str.slice(len(start))
                )
                for start in self.death_beginnings
            ),
            pl.lit(None, pl.String),
        )
        return pl.DataFrame({"code": deaths}).with_columns(cause=pl.when(cause != "").then(cause))


def resolve_codes(task: Task, meds: Path, vocabulary: Path | None) -> TaskCodes:
    """Work out which codes a task looks for.

    Args:
        task: The task.
        meds: The MEDS dataset, whose `metadata/codes.parquet` may hold parents.
        vocabulary: A folder with the OMOP tables `concept_ancestor` and `concept`, or None.

    Raises:
        ConfigError: A code set asks for descendants, and there is no ontology.
        RecordError: An ontology cannot be read.
    """
    used = {name: task.code_sets[name] for name in task.sets_used}
    asking = [name for name, one in used.items() if one.descendants]
    roots = CodeMatcher.of(
        pattern for name in asking for pattern in (*used[name].codes, *used[name].without)
    )
    ontology = read_ontology(meds, vocabulary, roots) if asking else None
    notes = (
        []
        if ontology is None
        else [_check_ontology(used, ontology, meds), _unknown_to(ontology, used)]
    )
    sets = {name: _matcher(one, ontology) for name, one in used.items()}
    visits = task.visits_used
    return TaskCodes(
        sets=sets,
        starts={
            kind: sets[kind] if kind in task.sets_as_visits else CodeMatcher.of(one.start)
            for kind, one in visits.items()
        },
        ends={kind: CodeMatcher.of(one.end) for kind, one in visits.items()},
        birth=CodeMatcher.of(task.birth_codes),
        death=CodeMatcher.of(task.death_codes),
        death_beginnings=CodeMatcher.of(task.death_codes).beginnings,
        notes=tuple(filter(None, notes)),
    )


def _matcher(one: CodeSet, ontology: Ontology | None) -> CodeMatcher:
    known = ontology if one.descendants else None
    belonging = _widened(one.codes, known)
    return replace(belonging, without=_widened(one.without, known)) if one.without else belonging


def _widened(patterns: tuple[str, ...], ontology: Ontology | None) -> CodeMatcher:
    """Take in what an ontology puts below the codes."""
    plain = CodeMatcher.of(patterns)
    if not ontology:
        return plain
    below = ontology.below(plain.exact | frozenset(plain.among(ontology.codes)))
    return CodeMatcher(plain.exact | below, plain.beginnings)


def _check_ontology(used: Mapping[str, CodeSet], ontology: Ontology | None, meds: Path) -> str:
    """Refuse a set that needs an ontology where there is none.

    Return a note where it can do without.
    """
    if ontology:
        return ""
    needing = [name for name, one in used.items() if one.descendants is True]
    where = f"{meds} has no parent_codes in metadata/codes.parquet, and no vocabulary is given"
    if needing:
        raise ConfigError(
            f"code_sets.{needing[0]}.descendants: {where}; give --vocabulary FOLDER with the OMOP "
            "tables concept_ancestor and concept, or set descendants: where_known to do without"
        )
    asking = ", ".join(name for name, one in used.items() if one.descendants)
    return f"the descendants of {asking} are not known here ({where}): only the listed codes count"


def _unknown_to(ontology: Ontology, used: Mapping[str, CodeSet]) -> str:
    """Return a note on the sets that ask for descendants of codes that the ontology does not
    have.
    """
    asking = {
        name: CodeMatcher.of(one.codes)
        for name, one in used.items()
        if one.descendants is True and ontology
    }
    unknown = ", ".join(
        name for name, one in asking.items() if one.among(ontology.codes).is_empty()
    )
    return (
        f"{' and '.join(ontology.names)} has none of the codes of {unknown}: only the listed codes "
        "count"
        if unknown
        else ""
    )
