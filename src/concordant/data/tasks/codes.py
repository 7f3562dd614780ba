"""Sets of codes, what an ontology puts below them, and everything a task looks for in records."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from concordant.core.errors import ConfigError, RecordError
from concordant.data.frames import first_line, require_columns
from concordant.data.tasks.definition import CodeSet, Task


@dataclass(frozen=True, slots=True)
class CodeMatcher:
    """Tells which codes belong to a set.

    Attributes:
        exact: Codes that do.
        beginnings: What the others begin with.
        without: Tells which of these do not; None = all belong.
    """

    exact: frozenset[str]
    beginnings: tuple[str, ...] = ()
    without: CodeMatcher | None = None

    @classmethod
    def of(cls, patterns: Iterable[str]) -> CodeMatcher:
        """Sort patterns by whether `*` ends them."""
        patterns = tuple(patterns)
        return cls(
            frozenset(one for one in patterns if not one.endswith("*")),
            tuple(one[:-1] for one in patterns if one.endswith("*")),
        )

    def matches(self, code: pl.Expr) -> pl.Expr:
        """Tell for each code whether it belongs to the set."""
        found = code.is_in(sorted(self.exact))
        if self.beginnings:
            found |= code.str.contains(f"^(?:{'|'.join(map(re.escape, self.beginnings))})")
        return found if self.without is None else found & ~self.without.matches(code)

    def among(self, codes: pl.Series) -> pl.Series:
        """Return the codes that belong to the set."""
        return codes.to_frame("code").filter(self.matches(pl.col("code")))["code"]


_SUFFIXES = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Ontology:
    """Codes and what lies below them.

    Attributes:
        edges: `parent`, `child` (str): a code and one that lies directly or further below it, each
            pair once.
        names: Where they come from, for messages.
    """

    edges: pl.DataFrame
    names: tuple[str, ...]

    def __bool__(self) -> bool:
        """Tell whether anything lies below anything."""
        return self.edges.height > 0

    @property
    def codes(self) -> pl.Series:
        """Every code that has something above or below it."""
        return pl.concat([self.edges["parent"], self.edges["child"]]).unique().alias("code")

    def below(self, roots: Collection[str]) -> frozenset[str]:
        """Return the roots and everything below them; a circle does no harm."""
        reached = fresh = pl.DataFrame({"code": sorted(roots)}, schema={"code": pl.String})
        while fresh.height:
            lower = (
                self.edges.join(fresh, left_on="parent", right_on="code", how="semi")
                .select(code="child")
                .unique()
            )
            fresh = lower.join(reached, on="code", how="anti")
            reached = pl.concat([reached, fresh])
        return frozenset(reached["code"])


def read_ontology(meds: Path, vocabulary: Path | None, roots: CodeMatcher) -> Ontology:
    """Read what lies below what.

    Args:
        meds: A MEDS dataset; its `metadata/codes.parquet` may hold `parent_codes`.
        vocabulary: A folder with the OMOP tables `concept_ancestor` and `concept` (parquet or CSV,
            in any letter case), or None.
        roots: The codes whose descendants are asked for; of a vocabulary, which may hold 10^8
            pairs, only theirs are read.

    Raises:
        RecordError: A file is there but cannot be read, or lacks a column.
    """
    parts = [_from_metadata(meds), _from_omop(vocabulary, roots) if vocabulary else None]
    found = dict(filter(None, parts))
    none = pl.DataFrame(schema={"parent": pl.String, "child": pl.String})
    edges = pl.concat([none, *found.values()])
    return Ontology(edges.filter(pl.col("parent") != pl.col("child")).unique(), tuple(found))


def _from_metadata(meds: Path) -> tuple[str, pl.DataFrame] | None:
    path = meds / "metadata" / "codes.parquet"
    if not path.is_file():
        return None
    try:
        frame = pl.scan_parquet(path, hive_partitioning=False)
        schema = frame.collect_schema()
        kind = schema.get("parent_codes", pl.Null())
        if kind == pl.Null:
            return None
        if not isinstance(kind, pl.List):
            raise RecordError(
                f"{path}: column parent_codes is {kind}; MEDS has a list of codes there"
            )
        if "code" not in schema:
            raise RecordError(f"{path}: missing column code; found {', '.join(schema)}")
        edges = frame.select(
            parent=pl.col("parent_codes").cast(pl.List(pl.String)),
            child=pl.col("code").cast(pl.String),
        )
        return str(path), edges.explode("parent").drop_nulls().collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None


def _from_omop(folder: Path, roots: CodeMatcher) -> tuple[str, pl.DataFrame]:
    """Read the pairs of `concept_ancestor` below a root, as `vocabulary_id/concept_code`."""
    pairs = _table(folder, "concept_ancestor", ("ancestor_concept_id", "descendant_concept_id"))
    concepts = _table(folder, "concept", ("concept_id", "vocabulary_id", "concept_code"))
    concepts = concepts.select(
        number="concept_id", code=pl.concat_str("vocabulary_id", "concept_code", separator="/")
    ).drop_nulls()
    try:
        above = concepts.filter(roots.matches(pl.col("code"))).collect(engine="streaming")
        wanted = pairs.filter(
            pl.col("ancestor_concept_id").is_in(above["number"].implode())
        ).collect(engine="streaming")
        below = concepts.filter(
            pl.col("number").is_in(wanted["descendant_concept_id"].unique().implode())
        ).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(folder, error) from None
    edges = wanted.join(
        above.select(ancestor_concept_id="number", parent="code"), on="ancestor_concept_id"
    )
    edges = edges.join(
        below.select(descendant_concept_id="number", child="code"), on="descendant_concept_id"
    )
    return f"{folder}/concept_ancestor", edges.select("parent", "child")


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> pl.LazyFrame:
    """Open a table lazily, with the columns that are wanted, as text."""
    names = [f"{name}{suffix}" for suffix in _SUFFIXES]
    path = next((one for one in sorted(folder.glob("*")) if one.name.lower() in names), None)
    if path is None:
        expected = ", ".join(names)
        raise RecordError(f"{folder}: no table {name}; expected {expected}, as OMOP has them")
    try:
        frame = _scan(path)
        lower = {given: given.strip().lower() for given in frame.collect_schema()}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    require_columns(lower.values(), columns, path, RecordError)
    return frame.rename(lower).select(pl.col(columns).cast(pl.String))


def _scan(path: Path) -> pl.LazyFrame:
    if path.name.lower().endswith(".parquet"):
        return pl.scan_parquet(path, hive_partitioning=False)
    header = pl.read_csv(
        path, has_header=False, separator="\x01", n_rows=1, infer_schema=False, quote_char=None
    ).item()
    tabs = "\t" in header  # as Athena writes them, with bare quotation marks in the names
    return pl.scan_csv(
        path, separator="\t" if tabs else ",", quote_char=None if tabs else '"', infer_schema=False
    )


def _unreadable(path: Path, error: Exception) -> RecordError:
    return RecordError(f"{path}: not readable ({first_line(error)})")


@dataclass(frozen=True, slots=True)
class TaskCodes:
    """Everything that a task looks for in the records.

    Attributes:
        sets: By name, the code sets that the task uses.
        starts: By kind of visit, what begins one.
        ends: By kind of visit, what ends one.
        birth: The birth event.
        death: The death event; the cause follows what its codes begin with.
        notes: What a user should know of how the sets came about.
    """

    sets: Mapping[str, CodeMatcher]
    starts: Mapping[str, CodeMatcher]
    ends: Mapping[str, CodeMatcher]
    birth: CodeMatcher
    death: CodeMatcher
    notes: tuple[str, ...] = ()

    def causes(self, deaths: pl.Series) -> pl.DataFrame:
        """Split codes of death: `code` and `cause`, null where it states none."""
        code, starts = pl.col("code"), self.death.beginnings
        cause = pl.coalesce(
            *(pl.when(code.str.starts_with(one)).then(code.str.slice(len(one))) for one in starts),
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
    asking = {name: one for name, one in used.items() if one.descendants}
    roots = CodeMatcher.of(code for one in asking.values() for code in (*one.codes, *one.without))
    ontology = read_ontology(meds, vocabulary, roots) if asking else None
    note = "" if ontology is None else _note(asking, ontology, meds)
    sets = {name: _matcher(one, ontology) for name, one in used.items()}
    visits = task.visits_used
    death = CodeMatcher.of(task.death_codes)
    return TaskCodes(
        sets=sets,
        starts={
            kind: sets[kind] if kind in task.sets_as_visits else CodeMatcher.of(one.start)
            for kind, one in visits.items()
        },
        ends={kind: CodeMatcher.of(one.end) for kind, one in visits.items()},
        birth=CodeMatcher.of(task.birth_codes),
        death=death,
        notes=(note,) if note else (),
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


def _note(asking: Mapping[str, CodeSet], ontology: Ontology, meds: Path) -> str:
    """Say whose descendants are not known; refuse a set that cannot do without."""
    needing = [name for name, one in asking.items() if one.descendants is True]
    if ontology:
        known = ontology.codes
        unknown = [n for n in needing if CodeMatcher.of(asking[n].codes).among(known).is_empty()]
        names = " and ".join(ontology.names)
        return (
            f"{names} has none of the codes of {', '.join(unknown)}: only the listed codes count"
            if unknown
            else ""
        )
    where = f"{meds} has no parent_codes in metadata/codes.parquet, and no vocabulary is given"
    if needing:
        raise ConfigError(
            f"code_sets.{needing[0]}.descendants: {where}; give --vocabulary FOLDER with the OMOP "
            "tables concept_ancestor and concept, or set descendants: where_known to do without"
        )
    names = ", ".join(asking)
    return f"the descendants of {names} are not known here ({where}): only the listed codes count"
