"""How many of a cohort's events an encoder's vocabulary has: few where a site codes otherwise."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import polars as pl

from concordant.core.errors import StoreError

_LOG = logging.getLogger(__name__)

WARN_BELOW = 0.5
"""Share of the events below which a warning is logged."""


@dataclass(frozen=True, slots=True)
class VocabularyCoverage:
    """What an encoder's vocabulary has of a cohort's records.

    Attributes:
        n_events: Events of all records.
        n_known: How many of them the vocabulary has.
        share: The one divided by the other.
        median_share: Median over the samples of the same share.
        n_samples: Samples with a record.
        n_samples_below_half: Those of whose events it has less than half.
    """

    n_events: int
    n_known: int
    share: float
    median_share: float
    n_samples: int
    n_samples_below_half: int


def coverage_of(parts: pl.DataFrame) -> VocabularyCoverage | None:
    """Add up what the shards counted per sample; None where the encoder has no vocabulary."""
    counted = parts.filter(pl.col("n_events") > 0)
    if counted.is_empty():
        return None
    shares = counted["n_known"] / counted["n_events"]
    n_events, n_known = int(counted["n_events"].sum()), int(counted["n_known"].sum())
    return VocabularyCoverage(
        n_events,
        n_known,
        n_known / n_events,
        _median(shares),
        counted.height,
        int((shares < WARN_BELOW).sum()),
    )


def _median(shares: pl.Series) -> float:
    median = shares.median()
    return median if isinstance(median, float) else 0.0


def check_coverage(coverage: VocabularyCoverage, required: float, stage: str) -> None:
    """Warn of a vocabulary that has few of the events.

    Args:
        coverage: What it has.
        required: The least share that is accepted.
        stage: Cohort and encoder, for messages.

    Raises:
        StoreError: The share is below what is required.
    """
    said = (
        f"{stage}: the encoder's vocabulary has {coverage.n_known} of {coverage.n_events} events "
        f"({coverage.share:.1%})"
    )
    if coverage.share < required:
        raise StoreError(
            f"{said}, less than the {required:.0%} that are required: what it sees of these "
            "records is next to nothing. Map the codes to its vocabularies (see its "
            "documentation), or give the encoder `force: true` to go on; what is encoded already "
            "is kept"
        )
    if coverage.share < WARN_BELOW:
        _LOG.warning(
            "%s; of %d of %d records less than half. Codes of another vocabulary are left out",
            said,
            coverage.n_samples_below_half,
            coverage.n_samples,
        )
