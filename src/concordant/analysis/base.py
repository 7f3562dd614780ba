"""What an analysis is, what it is computed from, and the registry of those that a study writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import polars as pl

from concordant.analysis.candidates import Candidate, merged
from concordant.core.registry import Registry
from concordant.core.survival import AS_IS
from concordant.evaluation import EvaluationProtocol

Schema = Mapping[str, pl.DataType | type[pl.DataType]]
"""Columns of a table and their types."""


@dataclass(frozen=True)
class Judged:
    """Everything that is judged, and how.

    Attributes:
        by_variant: All models, every seed, per variant of their predictions; models of others are
            among those `as_is`, on the cohorts they cover, without survival where they give none.
        protocol: How they are judged.
    """

    by_variant: Mapping[str, Sequence[Candidate]]
    protocol: EvaluationProtocol

    def candidates(self, variant: str = AS_IS) -> Sequence[Candidate]:
        """Return all models, every seed; none where the variant was not made."""
        return self.by_variant.get(variant, ())

    def models(self, variant: str = AS_IS) -> Sequence[Candidate]:
        """Return one candidate per model, seeds averaged."""
        return self._models.get(variant, ())

    @cached_property
    def _models(self) -> dict[str, list[Candidate]]:
        return {variant: merged(one) for variant, one in self.by_variant.items()}


@dataclass(frozen=True, slots=True)
class Shown:
    """A section of the report.

    Attributes:
        title: Its heading.
        caption: What the numbers are, in a sentence or two.
        table: The rows to show, columns named as they are to be read.
        figure: A figure that the report can draw, or None.
    """

    title: str
    caption: str
    table: pl.DataFrame
    figure: Any = None


class Analysis(ABC):
    """One table of a run: which predictions it needs, how it is computed, how it is shown.

    The contract (one test, run over the registry):

    * It returns exactly the columns of `schema`, also where there is nothing to judge.
    * It reads no variant that it does not declare, and does without one that was not made.
    * Where a number cannot be computed it is null and the row says why; it raises for wrong input
      only.

    Attributes:
        variants: Variants of the predictions that it reads.
        schema: Columns of its table.
    """

    variants: ClassVar[tuple[str, ...]] = (AS_IS,)
    schema: ClassVar[Schema]

    @abstractmethod
    def compute(self, judged: Judged) -> pl.DataFrame:
        """Compute the table.

        Raises:
            PredictionsError: Models of one cohort that do not hold the same samples, folds and
                outcomes.
        """

    def show(self, table: pl.DataFrame) -> Shown | None:
        """Return how the report shows the table.

        None where it is left out, or has a section of the report that is made for it.
        """
        return None


ANALYSES: Registry[Analysis] = Registry("analysis")
"""Analyses by name, in the order in which they are computed: the name is that of the table."""
