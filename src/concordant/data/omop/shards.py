"""Second pass: the staged events of one shard get codes and order, and are written as MEDS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.data.omop.kinds import CAUSE, DEATH, KINDS, OmopOptions

_CODED = ["kind", "concept", "source_concept"]
_DEATHS = [KINDS.index(DEATH), KINDS.index(CAUSE)]
_UNLISTED = "OMOP_CONCEPT_ID/{}"
"""Code of a concept that the concept table does not hold."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """What writing a shard gave.

    Attributes:
        counts: By number of the kind and what is counted (`events`, `unmapped`, ...: the columns of
            the table of counts), how many.
        codes: The codes in it.
    """

    counts: Counter[tuple[int, str]]
    codes: frozenset[str]


def write_shard(
    staged: list[tuple[int, Path]], concepts: pl.DataFrame, options: OmopOptions, out: Path
) -> ShardResult:
    """Write one shard in the columns of MEDS and `unit`, `value_code`, `visit_id`, `table`.

    Subjects are contiguous and ascending; within one, static facts come first, then time ascends,
    and at one instant: birth, start of a period, of a visit, events, end of a visit, death, end of
    a period.

    Args:
        staged: Number of the kind and parquet file of everything staged for the shard.
        concepts: `id`, `code` and `name` of every known concept.
        options: The choices of the conversion.
        out: The parquet file to write.
    """
    parts = [
        pl.read_parquet(path, hive_partitioning=False).with_columns(kind=pl.lit(kind, pl.UInt8))
        for kind, path in staged
    ]
    rows = pl.concat(parts).drop("reason")
    parts.clear()  # a shard is what bounds the memory, so no copy outlives its use
    coding = _coding(rows.select(_CODED).unique(), concepts, options)
    rows = rows.join(coding.select(*_CODED, "place"), on=_CODED, how="left").drop(_CODED)
    counts = _counts(rows, coding)
    rows = rows.filter(
        pl.col("place").is_in(coding.filter(pl.col("code").is_not_null())["place"].implode())
    )
    later = _later_deaths(rows, coding)
    if later.height:
        numbered = rows.with_row_index("row")
        rows = numbered.filter(~pl.col("row").is_in(later["row"].implode())).drop("row")
        repeated = Counter(later["kind"])
        counts.update({(kind, "repeated_death"): n for kind, n in repeated.items()})
        counts.subtract({(kind, "events"): n for kind, n in repeated.items()})
        rows = _causes_at_death(rows, coding)
    counts.update(_after_death(rows, coding))
    events = _worded(_ordered(rows), coding, concepts)
    out.parent.mkdir(parents=True, exist_ok=True)
    events.write_parquet(out)
    return ShardResult(counts, frozenset(events["code"].unique()))


def _coding(triples: pl.DataFrame, concepts: pl.DataFrame, options: OmopOptions) -> pl.DataFrame:
    """Give each triple of kind and concepts its code (null: no event), how found, and a place.

    Returns:
        `place` u32, ascending as events of one instant are ordered, `kind`, `concept`,
        `source_concept`, `code`, `state`, `table`.
    """
    order = ("concept", "source_concept")[:: 1 if options.prefer == "standard" else -1]
    for name in order:
        codes = concepts.select(pl.col("id").alias(name), pl.col("code").alias(f"{name}_code"))
        triples = triples.join(codes, on=name, how="left")
    known = pl.coalesce(f"{name}_code" for name in order)
    number = pl.coalesce(pl.when(pl.col(name) != 0).then(name) for name in order)
    listed = pl.coalesce(known, pl.format(_UNLISTED, number))
    state = (
        pl.when(known.is_not_null())
        .then(pl.lit("mapped"))
        .when(number.is_not_null())
        .then(pl.lit("unlisted"))
        .otherwise(pl.lit("unmapped"))
    )
    coded = triples.join(_kind_table(options), on="kind").with_columns(
        state=pl.when(pl.col("literal").is_null()).then(state).otherwise(pl.lit("literal")),
        code=pl.coalesce(
            "literal", pl.concat_str("prefix", pl.coalesce(listed, "unmapped_code"), "suffix")
        ),
    )
    placed = coded.sort("rank", "kind", "code", *_CODED).with_row_index("place")
    return placed.select("place", *_CODED, "code", "state", "table")


def _kind_table(options: OmopOptions) -> pl.DataFrame:
    keep = options.unmapped == "keep"
    rows = [
        {
            "kind": number,
            "literal": kind.code,
            "prefix": kind.prefix,
            "suffix": kind.suffix,
            "unmapped_code": kind.unmapped if keep else None,
            "rank": kind.rank,
            "table": kind.table,
        }
        for number, kind in enumerate(KINDS)
    ]
    numbers = {"kind": pl.UInt8, "rank": pl.UInt8}
    return pl.DataFrame(rows, schema_overrides={"unmapped_code": pl.String, **numbers})


def _counts(rows: pl.DataFrame, coding: pl.DataFrame) -> Counter[tuple[int, str]]:
    """Count by kind what becomes of the rows, repeated deaths aside."""
    given, state = pl.col("code").is_not_null(), pl.col("state")
    chosen = {
        "events": given,
        "unmapped": ~given,
        "kept_unmapped": given & (state == "unmapped"),
        "kept_unlisted": given & (state == "unlisted"),
    }
    n, without = pl.len().cast(pl.Int64), pl.col("no_number").sum().cast(pl.Int64)
    by_place = rows.group_by("place").agg(n=n, n_without=without).join(coding, on="place")
    by_kind = by_place.group_by("kind").agg(
        *(pl.col("n").filter(rows).sum().alias(what) for what, rows in chosen.items()),
        kept_without_number=pl.col("n_without").filter(given).sum(),
    )
    counts = {row.pop("kind"): row for row in by_kind.to_dicts()}
    return Counter({(kind, what): n for kind, row in counts.items() for what, n in row.items()})


def _places(coding: pl.DataFrame, kinds: Iterable[int]) -> pl.Series:
    return coding.filter(pl.col("kind").is_in(list(kinds)))["place"].implode()


def _later_deaths(rows: pl.DataFrame, coding: pl.DataFrame) -> pl.DataFrame:
    """Return `row` and `kind` of deaths after the first, and of causes stated later or again."""
    deaths = (
        rows.select("subject_id", "time", "place")
        .with_row_index("row")
        .filter(pl.col("place").is_in(_places(coding, _DEATHS)))
    )
    deaths = deaths.join(coding.select("place", "kind", "code"), on="place").sort(
        "time", "place", "row"
    )
    earliest = pl.col("time").min().over("subject_id", "kind")
    first = deaths.filter(pl.col("time") == earliest).unique(["subject_id", "code"], keep="first")
    return deaths.join(first, on="row", how="anti").select("row", "kind")


def _causes_at_death(rows: pl.DataFrame, coding: pl.DataFrame) -> pl.DataFrame:
    """Put causes at the death: the earlier day and the cause may come from two sources."""
    is_cause = pl.col("place").is_in(_places(coding, _DEATHS[1:]))
    dated = rows.join(_deaths(rows, coding), on="subject_id", how="left", maintain_order="left")
    return dated.with_columns(time=pl.when(is_cause).then("died").otherwise("time")).drop("died")


def _deaths(rows: pl.DataFrame, coding: pl.DataFrame) -> pl.DataFrame:
    deaths = rows.filter(pl.col("place").is_in(_places(coding, _DEATHS[:1])))
    return deaths.select("subject_id", died="time")


def _after_death(rows: pl.DataFrame, coding: pl.DataFrame) -> Counter[tuple[int, str]]:
    dated = rows.select("subject_id", "time", "place").join(_deaths(rows, coding), on="subject_id")
    begun = [number for number, kind in enumerate(KINDS) if not kind.name.endswith(": end")]
    later = dated.filter(
        pl.col("time") > pl.col("died"), pl.col("place").is_in(_places(coding, begun))
    )
    kinds = later.join(coding, on="place")["kind"].value_counts()
    return Counter({(kind, "kept_after_death"): n for kind, n in kinds.iter_rows()})


def _ordered(rows: pl.DataFrame) -> pl.DataFrame:
    """Sort so that the same tables give the same file, in whatever order threads read them."""
    # the last of the keys: any order will do, if it is one
    rest = pl.struct("text", "unit_text", "value_concept", "unit_concept").hash()
    keys = ("subject_id", "time", "place", "visit_id", "numeric_value")
    return rows.with_columns(rest=rest).sort(*keys, "rest", nulls_last=False)


def _worded(rows: pl.DataFrame, coding: pl.DataFrame, concepts: pl.DataFrame) -> pl.DataFrame:
    """Put codes, units and values in; a row without a concept keeps no value."""
    values = concepts.select(value_concept="id", value_code="code", value_name="name")
    units = concepts.select(
        unit_concept="id", unit_code=pl.col("code").str.splitn("/", 2).struct.field("field_1")
    )
    for table, key in (
        (coding.select("place", "code", "state", "table"), "place"),
        (values, "value_concept"),
        (units, "unit_concept"),
    ):
        rows = rows.join(table, on=key, how="left", maintain_order="left")
    mapped = pl.when(pl.col("state") != "unmapped")
    return rows.select(
        *("subject_id", "time", "code"),
        numeric_value=mapped.then("numeric_value"),
        text_value=mapped.then(pl.coalesce("text", "value_name", "value_code")),
        unit=mapped.then(pl.coalesce("unit_code", "unit_text")),
        value_code=mapped.then("value_code"),
        visit_id="visit_id",
        table="table",
    )
