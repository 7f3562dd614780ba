"""Records as codes: which codes a record holds, how often, and their last values. No weights, nothing fitted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from concordant.core.embedding import CodeEmbedding
from concordant.core.errors import ConfigError
from concordant.core.events import BIRTH_CODES, Events
from concordant.encoders.base import ENCODERS, EncoderCard, RecordEncoder

AGE_CODE = "AGE//years"
"""Code of the age at the prediction time."""

_DEATH_CODE = "MEDS_DEATH"
_DAYS_PER_YEAR = 365.25

Values = Literal["none", "last"]


@ENCODERS.register("one_hot")
class OneHot(RecordEncoder):
    """Encode a record as the set of its codes, each with weight 1.

    Static codes are included; birth and death codes are not. The age at the prediction time, in years, is the numeric code `AGE//years`
    where the record holds a birth.

    Args:
        values: "last" adds, for every code with a number, the last one as the numeric code `CODE//last`.
        windows_days: Where given, a dated code is written once per window that it lies in, as `CODE//<=30d`, and not at all where it is
            older than every window. Static codes and last values are not affected.
    """

    def __init__(self, *, values: Values = "none", windows_days: tuple[float, ...] = ()) -> None:
        self._values = values
        self._windows = _checked(windows_days)

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(kind="codes")

    def encode(self, records: Sequence[Events]) -> list[CodeEmbedding]:
        """Encode records one by one."""
        return [_encode(record, self._values, self._windows, lambda count: 1.0) for record in records]


@ENCODERS.register("count")
class Count(RecordEncoder):
    """Encode a record as its codes, each weighing log2(1 + the number of its occurrences); everything else as `one_hot`.

    Args:
        values: As for `one_hot`.
        windows_days: As for `one_hot`; occurrences are counted within each window.
    """

    def __init__(self, *, values: Values = "none", windows_days: tuple[float, ...] = ()) -> None:
        self._values = values
        self._windows = _checked(windows_days)

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""
        return EncoderCard(kind="codes")

    def encode(self, records: Sequence[Events]) -> list[CodeEmbedding]:
        """Encode records one by one."""
        return [_encode(record, self._values, self._windows, lambda count: math.log2(1 + count)) for record in records]


def _checked(windows_days: Iterable[float]) -> tuple[float, ...]:
    windows = tuple(sorted(windows_days))
    if any(not (0 < days < math.inf) for days in windows) or len(set(windows)) != len(windows):
        raise ConfigError(f"windows_days is {list(windows)}; expected different numbers of days, each > 0")
    return windows


def _encode(record: Events, values: Values, windows: Sequence[float], weigh: Callable[[int], float]) -> CodeEmbedding:
    numbers = _age(record) | (_last_values(record) if values == "last" else {})
    weights = {code: weigh(count) for code, count in _occurrences(record, windows).items()} | numbers
    codes = tuple(sorted(weights))
    return CodeEmbedding(
        codes,
        np.array([weights[code] for code in codes], np.float32),
        np.array([code in numbers for code in codes], bool),
    )


def _is_feature(code: str) -> bool:
    return code not in BIRTH_CODES and code != _DEATH_CODE and not code.startswith(f"{_DEATH_CODE}//")


def _age(record: Events) -> dict[str, float]:
    births = [days for days, code in zip(record.days_before, record.code, strict=True) if code in BIRTH_CODES and days >= 0]
    return {AGE_CODE: max(births) / _DAYS_PER_YEAR} if births else {}


def _last_values(record: Events) -> dict[str, float]:
    known = np.flatnonzero(np.isfinite(record.numeric_value))
    return {f"{record.code[row]}//last": float(record.numeric_value[row]) for row in known if _is_feature(record.code[row])}


def _occurrences(record: Events, windows: Sequence[float]) -> Mapping[str, int]:
    """Count each code, in the whole history or once per window; a record is static first, then oldest first."""
    if not windows:
        return Counter(filter(_is_feature, record.code))
    static = int(np.isnan(record.days_before).sum())
    counts = Counter(filter(_is_feature, record.code[:static]))
    ascending = -record.days_before[static:]
    for days in windows:
        start = static + int(np.searchsorted(ascending, -days, side="left"))
        counts.update(f"{code}//<={days:.10g}d" for code in record.code[start:] if _is_feature(code))
    return counts
