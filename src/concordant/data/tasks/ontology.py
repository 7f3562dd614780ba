"""What lies below a code.

From the parents in `metadata/codes.parquet`, or from the tables of an OMOP vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.tasks.matcher import CodeMatcher

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
        """Return the roots and everything that can be reached downwards from them.

        A circle does no harm.
        """
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
    parts = [
        part
        for part in (
            _from_metadata(meds),
            None if vocabulary is None else _from_omop(vocabulary, roots),
        )
        if part is not None
    ]
    edges = pl.concat(
        [
            pl.DataFrame(schema={"parent": pl.String, "child": pl.String}),
            *(edges for _, edges in parts),
        ]
    )
    return Ontology(
        edges.filter(pl.col("parent") != pl.col("child")).unique(), tuple(name for name, _ in parts)
    )


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
    """Read the pairs of `concept_ancestor` whose ancestor is a root, its numbers replaced by
    `vocabulary_id/concept_code`.
    """
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
    found = [
        path
        for path in sorted(folder.glob("*"))
        if path.name.lower() in {f"{name}{suffix}" for suffix in _SUFFIXES}
    ]
    if not found:
        raise RecordError(
            f"{folder}: no table {name}; expected "
            f"{', '.join(f'{name}{suffix}' for suffix in _SUFFIXES)}, as OMOP has them"
        )
    path = found[0]
    try:
        frame = _scan(path)
        lower = {given: given.strip().lower() for given in frame.collect_schema()}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from None
    absent = [column for column in columns if column not in lower.values()]
    if absent:
        raise RecordError(
            f"{path}: missing column(s) {', '.join(absent)}; found {', '.join(lower.values())}"
        )
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
    return RecordError(f"{path}: not readable ({str(error).partition(chr(10))[0]})")
