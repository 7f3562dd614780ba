"""Records as codes: which a record holds, how often, and their values; nothing fitted."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from concordant.core.embedding import CodeTable
from concordant.core.errors import ConfigError
from concordant.core.events import Events, LifeCodes, PackedEvents, pack_events
from concordant.encoders import code_table
from concordant.encoders.base import ENCODERS, EncoderCard, RecordEncoder
from concordant.encoders.code_table import Entries
from concordant.encoders.code_terms import ROUND_NUMBERS, features_among, read_ontology, terms_of

AGE_CODE = "AGE//years"
"""Code of the age at the prediction time."""

_DAYS_PER_YEAR = 365.25

Value = Literal["none", "last", "mean", "min", "max", "slope", "bins"]


class CodeEncoder(RecordEncoder):
    """An encoder of records to codes; `one_hot` says what its options do."""

    version = 2

    def __init__(
        self,
        *,
        values: Value | tuple[Value, ...] = "none",
        windows_days: tuple[float, ...] = (),
        ontology: Path | None = None,
        ontology_depth: Annotated[int, Field(ge=1)] | None = None,
        cut_points: dict[str, tuple[float, ...]] | None = None,
    ) -> None:
        self._values = _checked_values(values)
        self._windows = _checked_windows(windows_days)
        self._cut_points = _checked_points(cut_points or {}, "bins" in self._values)
        if ontology_depth is not None and ontology is None:
            raise ConfigError(
                f"ontology_depth is {ontology_depth} without an ontology; give ontology: "
                "metadata/codes.parquet of the dataset"
            )
        self._ontology = None if ontology is None else read_ontology(ontology, ontology_depth)

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(kind="codes")

    def encode(self, records: Sequence[Events]) -> CodeTable:
        """Encode records, with the same result in any batch, to one table; packed ones are fastest.

        Raises:
            RecordError: A code of the records has the name of a feature that is made of others.
        """
        packed = pack_events(records)
        parts = [*self._occurrences(packed), *self._summaries(packed), _age(packed)]
        return code_table.assemble(parts)

    def _occurrences(self, records: PackedEvents) -> Iterable[Entries]:
        """Yield the counts of terms in the history, or per window; static ones once."""
        points = self._points_of if "bins" in self._values else None
        terms = terms_of(records, self._ontology, points)
        spans = [
            ("", True, -1.0 if self._windows else math.inf),
            *((f"//<={days:.10g}d", False, days) for days in self._windows),
        ]
        for suffix, static, limit in spans:
            per_record, index, times = code_table.count_terms(
                terms.offsets, terms.index, terms.days_before, len(terms.names), static, limit
            )
            yield Entries(per_record, index, self._weigh(times), terms.names, suffix, numeric=False)

    def _summaries(self, records: PackedEvents) -> Iterable[Entries]:
        wanted = [name for name in code_table.STATISTICS if name in self._values]
        if not wanted:
            return
        features = features_among(records.codes)
        columns = (records.offsets, records.code, records.days_before, records.numeric_value)
        per_record, found, result = code_table.summarise(*columns, len(records.codes), features)
        record = np.repeat(np.arange(len(records)), per_record)
        for name in wanted:
            weight = result[:, code_table.STATISTICS.index(name)]
            known = np.abs(weight) <= code_table.GREATEST
            yield Entries(
                np.bincount(record[known], minlength=len(records)),
                found[known],
                weight[known],
                records.codes,
                f"//{name}",
                numeric=True,
            )

    def _points_of(self, code: str) -> Sequence[float]:
        return self._cut_points.get(code, ROUND_NUMBERS)

    @abstractmethod
    def _weigh(self, times: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
        """Return the weight of codes that occur so many times."""


@ENCODERS.register("one_hot")
class OneHot(CodeEncoder):
    """Encode a record as the set of its codes, each with weight 1.

    Static codes are included; birth and death codes are not. The age at the prediction time, in
    years, is the numeric code `AGE//years` where the record holds a birth.

    Args:
        values: What becomes of numbers, one or several. "last", "mean", "min", "max" and "slope"
            (least squares, per day) of all values of a code in the whole history add the numeric
            code `CODE//last` and so on. "bins" adds for each value the code of its interval,
            `CODE//[2,5)`, which is then treated as any other code.
        windows_days: Where given, a dated code is written once per window that it lies in, as
            `CODE//<=30d`, and not at all where it is older than every window. Static codes and
            numeric ones are not affected.
        ontology: A `metadata/codes.parquet` of MEDS: each event counts for every code above its own
            as well. Values are not rolled up.
        ontology_depth: How many steps up; all unless given.
        cut_points: For "bins", per code its cut points, ascending; other codes are cut at 0 and
            plus and minus 1, 2 and 5 times each power of ten.
    """

    def _weigh(self, times: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
        return np.ones(len(times), np.float32)


@ENCODERS.register("count")
class Count(CodeEncoder):
    """Encode a record as `one_hot`, each code weighing log2(1 + its number of occurrences).

    Args:
        values: As for `one_hot`.
        windows_days: As for `one_hot`; occurrences are counted within each window.
        ontology: As for `one_hot`; a code occurs as often as it and the codes below it do.
        ontology_depth: As for `one_hot`.
        cut_points: As for `one_hot`.
    """

    def _weigh(self, times: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
        weights = np.asarray(np.log2(1.0 + np.arange(times.max(initial=0) + 1)), np.float32)
        return weights.take(times)


def _age(records: PackedEvents) -> Entries:
    births = LifeCodes.among(records.codes).birth
    days = code_table.greatest_days(records.offsets, records.code, records.days_before, births)
    known = ~np.isnan(days)
    index, years = np.zeros(int(known.sum()), np.int32), days[known] / _DAYS_PER_YEAR
    return Entries(known.astype(np.int64), index, years, (AGE_CODE,), "", numeric=True)


def _checked_values(values: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    given: tuple[Value, ...] = (values,) if isinstance(values, str) else values
    if len(set(given)) != len(given) or ("none" in given and len(given) > 1):
        raise ConfigError(f"values is {list(given)}; expected different ones, or none alone")
    return given


def _checked_windows(windows_days: Iterable[float]) -> tuple[float, ...]:
    windows = tuple(sorted(windows_days))
    if any(not (0 < days < math.inf) for days in windows) or len(set(windows)) != len(windows):
        raise ConfigError(
            f"windows_days is {list(windows)}; expected different numbers of days, each > 0"
        )
    return windows


def _checked_points(
    cut_points: Mapping[str, Sequence[float]], used: bool
) -> Mapping[str, Sequence[float]]:
    if cut_points and not used:
        raise ConfigError(
            "cut_points are given, but values does not name bins; add it, or leave the cut points "
            "out"
        )
    for code, points in cut_points.items():
        if not points or list(points) != sorted(set(points)) or not np.isfinite(points).all():
            raise ConfigError(
                f"cut_points of {code!r} are {list(points)}; expected different finite numbers in "
                "ascending order"
            )
    return cut_points
