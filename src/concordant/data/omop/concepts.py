"""Concept numbers to MEDS codes `vocabulary_id/concept_code`, and codes with their parents."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl

from concordant.data.omop.columns import Columns
from concordant.data.omop.source import OmopSource

_STANDARD = {
    8507: ("Gender/M", "MALE"),
    8532: ("Gender/F", "FEMALE"),
    8515: ("Race/2", "Asian"),
    8516: ("Race/3", "Black or African American"),
    8527: ("Race/5", "White"),
    8557: ("Race/4", "Native Hawaiian or Other Pacific Islander"),
    8657: ("Race/1", "American Indian or Alaska Native"),
    38003563: ("Ethnicity/Hispanic", "Hispanic or Latino"),
    38003564: ("Ethnicity/Not Hispanic", "Not Hispanic or Latino"),
    262: ("Visit/ERIP", "Emergency Room and Inpatient Visit"),
    9201: ("Visit/IP", "Inpatient Visit"),
    9202: ("Visit/OP", "Outpatient Visit"),
    9203: ("Visit/ER", "Emergency Room Visit"),
}
"""Concepts that every CDM has by these numbers (OHDSI Athena), for exports whose concept table
leaves them out.
"""

_IDS = ("concept", "source_concept", "value_concept", "unit_concept")
_SCHEMA = {"id": pl.Int64, "code": pl.String, "name": pl.String}
_EDGES = {"child": pl.Int64, "parent": pl.Int64}


def used_concepts(staged: Iterable[list[Path]]) -> pl.Series:
    """Return the numbers, other than 0, of the concepts that staged events name.

    Args:
        staged: Lists of parquet files; those of one list are read together.
    """
    found: set[int] = set()
    for paths in staged:
        part = pl.scan_parquet(paths, hive_partitioning=False)
        found |= {
            number
            for name in _IDS
            for number in part.select(pl.col(name).unique()).collect(engine="streaming").to_series()
        }
    return pl.Series("id", sorted(found - {0}), pl.Int64)


def read_concepts(source: OmopSource, wanted: pl.Series) -> pl.DataFrame:
    """Read `id`, `code`, `name` of the concepts wanted and known, out of millions of others."""
    parts = [pl.DataFrame(schema=_SCHEMA)]
    for file in source.files("concept"):
        with source.opened(file) as frame:
            columns = Columns(frame.collect_schema(), file)
            columns.require("concept_id", "vocabulary_id", "concept_code")
            vocabulary, code = columns.text("vocabulary_id"), columns.text("concept_code")
            read = frame.select(
                id=columns.integer("concept_id"),
                code=pl.concat_str(vocabulary, code, separator="/"),
                name=columns.text("concept_name"),
            )
            read = read.filter(pl.col("id").is_in(wanted.implode())).drop_nulls("code")
            parts.append(read.collect(engine="streaming"))
    known = pl.concat(parts).sort("id", "code").unique("id", keep="first", maintain_order=True)
    rows = [(number, *named) for number, named in _STANDARD.items() if number in wanted]
    standard = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    return pl.concat([known, standard.join(known, on="id", how="anti")]).sort("id")


def code_table(source: OmopSource, concepts: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    """Build `metadata/codes.parquet`.

    The codes of the events and their ancestors, each with its direct parents.

    A parent is a direct ancestor (`concept_ancestor`, one level; without that table "Is a" of
    `concept_relationship`), or for a source code the standard concept it maps to. So the
    descendants of a standard code hold the source codes too.

    Args:
        source: The export.
        concepts: `id`, `code` and `name` of the concepts that events name.
        codes: `code` of every event code.

    Returns:
        `code` (unique, sorted), `description` str or null, `parent_codes` list[str] or null.
    """
    edges = _edges(source)
    named = _closure(concepts["id"], edges)
    known = read_concepts(source, named)
    parents = (
        edges.join(known.select(child="id", code="code"), on="child")
        .join(known.select(parent="id", parent_code="code"), on="parent")
        .filter(pl.col("code") != pl.col("parent_code"))
        .group_by("code")
        .agg(parent_codes=pl.col("parent_code").unique().sort())
    )
    event_codes = codes.select("code").join(known, on="code", how="anti")
    described = known.select("code", description="name")
    rows = pl.concat([described, event_codes], how="diagonal")
    rows = rows.unique("code", keep="first", maintain_order=True)
    return rows.join(parents, on="code", how="left").sort("code")


def _edges(source: OmopSource) -> pl.DataFrame:
    def one_level(columns: Columns) -> pl.Expr:
        columns.require("min_levels_of_separation")
        return columns.integer("min_levels_of_separation") == 1

    def related(columns: Columns) -> pl.Expr:
        relation = columns.text("relationship_id")
        return relation.is_in(relations) & ~columns.stated("invalid_reason")

    ends = ("descendant_concept_id", "ancestor_concept_id")
    ancestors = _read_edges(source, "concept_ancestor", ends, one_level)
    relations = ["Maps to"] if len(ancestors) else ["Maps to", "Is a"]
    ends = ("concept_id_1", "concept_id_2")
    return pl.concat(
        [ancestors, _read_edges(source, "concept_relationship", ends, related)]
    ).unique()


def _read_edges(
    source: OmopSource, table: str, ends: tuple[str, str], chosen: Callable[[Columns], pl.Expr]
) -> pl.DataFrame:
    parts = [pl.DataFrame(schema=_EDGES)]
    for file in source.files(table):
        with source.opened(file) as frame:
            columns = Columns(frame.collect_schema(), file)
            columns.require(*ends)
            child, parent = (columns.integer(name) for name in ends)
            read = frame.filter(chosen(columns)).select(child=child, parent=parent)
            read = read.filter(pl.col("child") != pl.col("parent")).drop_nulls()
            parts.append(read.collect(engine="streaming"))
    return pl.concat(parts)


def _closure(start: pl.Series, edges: pl.DataFrame) -> pl.Series:
    """Return the concepts that can be reached upwards."""
    reached = fresh = pl.DataFrame({"id": start})
    while fresh.height:
        above = edges.join(fresh, left_on="child", right_on="id", how="semi")
        above = above.select(id="parent").unique()
        fresh = above.join(reached, on="id", how="anti")
        reached = pl.concat([reached, fresh])
    return reached["id"].sort()
