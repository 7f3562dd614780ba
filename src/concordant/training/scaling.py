"""What is fitted before the model: scaling, imputation and the vocabulary, on train alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from concordant.core.embedding import CodeTable, EmbeddingTable, TokenTable
from concordant.core.errors import FeatureError
from concordant.core.tokens import CodeTokens, Tokens, mean_of_valid
from concordant.model import InputDims

CLIP = 6.0
"""Standard deviations a scaled feature may lie from train's mean.

One absurd value at another site must not decide a risk.
"""

MINIMUM_SAMPLES = 2
"""Train samples that must carry a code before it enters the vocabulary, by default.

One teaches nothing that holds elsewhere.
"""


@dataclass(frozen=True, slots=True)
class ColumnScaling:
    """Centre and scale of the columns of a matrix, with a median for each and indicators for those
    that had gaps on train.

    Attributes:
        mean: Train's mean after imputation.
        scale: Train's standard deviation after imputation; 1 for a constant column.
        median: Train's median, which stands in for a gap.
        gaps: True where train had gaps; such a column gets a second one that says where.
    """

    mean: Float[np.ndarray, " column"]
    scale: Float[np.ndarray, " column"]
    median: Float[np.ndarray, " column"]
    gaps: Bool[np.ndarray, " column"]

    @property
    def width(self) -> int:
        """Columns after scaling, indicators included."""
        return len(self.mean) + int(self.gaps.sum())

    def apply(self, values: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row scaled"]:
        """Return imputed, standardised, clipped columns, then the indicators (centred on half)."""
        scaled = np.empty((len(values), self.width), np.float32)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            missing = np.isnan(values[rows])
            filled = np.where(missing, self.median, values[rows])
            columns = len(self.mean)
            scaled[rows, :columns] = np.clip((filled - self.mean) / self.scale, -CLIP, CLIP)
            scaled[rows, columns:] = missing[:, self.gaps] - 0.5
        return scaled


_ROWS_AT_ONCE, _COLUMNS_AT_ONCE = 4096, 32
"""What is held in double precision at once: a cohort's tokens are gigabytes of it."""


def fit_columns(values: Float[np.ndarray, "row column"]) -> ColumnScaling:
    """Fit centre, scale and median of each column, NaN being gaps."""
    starts = range(0, max(values.shape[1], 1), _COLUMNS_AT_ONCE)
    parts = [_fit_block(values[:, start : start + _COLUMNS_AT_ONCE]) for start in starts]
    mean, scale, median, gaps = (np.concatenate(part) for part in zip(*parts, strict=True))
    # a column whose spread is rounding noise beside its size is constant: dividing by it would blow
    # that noise up
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return ColumnScaling(mean, np.where(constant, 1.0, scale), median, gaps)


def _fit_block(values: Float[np.ndarray, "row column"]) -> tuple[Float[np.ndarray, " column"], ...]:
    """Return mean, deviation and median of some columns after imputation, and who had gaps."""
    missing = np.isnan(values)
    median = _medians(values, (~missing).sum(0))
    filled = np.where(missing, median, values)
    if not len(filled):
        return np.zeros(len(median)), np.ones(len(median)), median, missing.any(0)
    return filled.mean(0), filled.std(0), median, missing.any(0)


def _medians(
    values: Float[np.ndarray, "row column"], known: Int[np.ndarray, " column"]
) -> Float[np.ndarray, " column"]:
    """Return each column's median over the `known` values, which sorting puts before the gaps."""
    if not len(values):
        return np.zeros(len(known))
    ordered = np.sort(values.T)  # rows of a contiguous copy: an order of magnitude faster
    middle = np.stack([(known - 1) // 2, known // 2], axis=1)
    median = np.take_along_axis(ordered, middle, axis=1).astype(np.float64).mean(axis=1)
    return np.where(known > 0, median, 0.0)


@dataclass(frozen=True, slots=True)
class TokenScaling:
    """Scaling of tokens and, where there is one, of the pooled vector.

    Attributes:
        token: Columns of the tokens.
        pooled: Columns of the pooled vector, or None.
    """

    token: ColumnScaling
    pooled: ColumnScaling | None

    @property
    def dims(self) -> InputDims:
        """Size of the scaled input."""
        return InputDims(
            "tokens", self.token.width, None if self.pooled is None else self.pooled.width
        )

    def apply(self, table: EmbeddingTable) -> Tokens:
        """Return scaled, padded tokens; where there is no pooled vector, the mean of the tokens."""
        if not isinstance(table, TokenTable):
            raise FeatureError(
                "this model was fitted on tokens and was given codes; use the encoder it was "
                "trained with"
            )
        if table.values.shape[1] != len(self.token.mean):
            raise FeatureError(
                f"expected tokens of width {len(self.token.mean)}, as in training, and got "
                f"{table.values.shape[1]}"
            )
        valid = _padding(table.lengths)
        scaled = self.token.apply(table.values)
        if valid.all():
            values = scaled.reshape(*valid.shape, -1)
        else:
            values = np.zeros((*valid.shape, self.token.width), np.float32)
            values[valid] = scaled
        tokens, there = torch.from_numpy(values), torch.from_numpy(valid)
        pooled = self._pooled(table)
        return Tokens(tokens, there, mean_of_valid(tokens, there) if pooled is None else pooled)

    def absent(self, samples: int) -> TokenTable:
        """Return a table this scaling accepts, in which every sample is missing."""
        pooled = (
            None
            if self.pooled is None
            else np.full((samples, len(self.pooled.mean)), np.nan, np.float32)
        )
        return TokenTable(
            np.zeros((0, len(self.token.mean)), np.float32), np.zeros(samples + 1, np.int64), pooled
        )

    def _pooled(self, table: TokenTable) -> Tensor | None:
        if self.pooled is None:
            return None
        if table.pooled is None or table.pooled.shape[1] != len(self.pooled.mean):
            given = "none" if table.pooled is None else f"one of width {table.pooled.shape[1]}"
            raise FeatureError(
                f"expected a pooled vector of width {len(self.pooled.mean)}, as in training, and "
                f"got {given}"
            )
        pooled = self.pooled.apply(table.pooled)
        pooled[table.lengths == 0] = 0.0
        return torch.from_numpy(pooled)


@dataclass(frozen=True, slots=True)
class CodeScaling:
    """Vocabulary, and centre and scale of each code's weight.

    Numeric codes are standardised over their carriers; presence and count codes are divided by
    their standard deviation over all train samples (at least `floor`, so that a rare code does not
    become a giant), not centred: a record stays sparse.

    Attributes:
        codes: The fold's vocabulary.
        mean: Subtracted from the weight; 0 for presence and count codes.
        scale: Divides the weight.
        norm: Mean over train samples of the sum of squared scaled weights.
    """

    codes: tuple[str, ...]
    mean: Float[np.ndarray, " code"]
    scale: Float[np.ndarray, " code"]
    norm: float
    _position: dict[str, int] = field(repr=False, compare=False)

    @property
    def dims(self) -> InputDims:
        """Size of the scaled input."""
        return InputDims("codes", len(self.codes), None, self.norm)

    def apply(self, table: EmbeddingTable) -> CodeTokens:
        """Return scaled, padded codes; those outside the vocabulary are dropped (see `dropped`).

        A record without a code of the vocabulary is a missing one.
        """
        known, index = self._known(table)
        before = np.concatenate([[0], np.cumsum(known)])
        valid = _padding(np.diff(before[table.offsets]))
        weight = np.clip(
            (_codes(table).weight[known] - self.mean[index]) / self.scale[index], -CLIP, CLIP
        )
        padded_index = np.zeros(valid.shape, np.int64)
        padded_weight = np.zeros(valid.shape, np.float32)
        padded_index[valid] = index
        padded_weight[valid] = weight
        return CodeTokens(
            torch.from_numpy(padded_index), torch.from_numpy(padded_weight), torch.from_numpy(valid)
        )

    def absent(self, samples: int) -> CodeTable:
        """Return a table this scaling accepts, in which every sample is missing."""
        nothing = np.zeros(0, np.int64)
        return CodeTable(
            (), np.zeros(0, bool), nothing, np.zeros(0, np.float32), np.zeros(samples + 1, np.int64)
        )

    def dropped(self, table: EmbeddingTable) -> int:
        """Return how many code entries lie outside the vocabulary."""
        known, _ = self._known(table)
        return int((~known).sum())

    def _known(
        self, table: EmbeddingTable
    ) -> tuple[Bool[np.ndarray, " row"], Int[np.ndarray, " known_row"]]:
        codes = _codes(table)
        position = np.array([self._position.get(code, -1) for code in codes.codes], np.int64)
        index = position[codes.index] if len(codes.index) else np.zeros(0, np.int64)
        return index >= 0, index[index >= 0]


PRESENCE_FLOOR = 0.1
"""Smallest standard deviation a presence code is divided by.

That of a code carried by one sample in a hundred.
"""


def code_scaling(
    codes: tuple[str, ...],
    mean: Float[np.ndarray, " code"],
    scale: Float[np.ndarray, " code"],
    norm: float,
) -> CodeScaling:
    """Build a scaling from its stored parts."""
    return CodeScaling(codes, mean, scale, norm, {code: place for place, code in enumerate(codes)})


def fit_codes(table: CodeTable, *, minimum_samples: int = MINIMUM_SAMPLES) -> CodeScaling:
    """Choose the vocabulary on train, the codes that enough samples carry, and fit each code's
    centre and scale.
    """
    size, samples = len(table.codes), max(int((table.lengths > 0).sum()), 1)
    carriers = np.bincount(table.index, minlength=size)
    total = np.bincount(table.index, table.weight.astype(np.float64), minlength=size)
    squares = np.bincount(table.index, table.weight.astype(np.float64) ** 2, minlength=size)
    over = np.where(table.numeric, np.maximum(carriers, 1), samples)
    mean = total / over
    scale = np.sqrt(np.maximum(squares / over - mean**2, 0.0))
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    scale = np.where(
        table.numeric, np.where(constant, 1.0, scale), np.maximum(scale, PRESENCE_FLOOR)
    )
    centre = np.where(table.numeric, mean, 0.0)
    chosen = carriers >= minimum_samples
    # a presence code that every train sample carries says nothing a bias does not say
    chosen &= table.numeric | (carriers < samples) | ~constant
    rows = chosen[table.index] if len(table.index) else np.zeros(0, bool)
    scaled = (table.weight[rows] - centre[table.index[rows]]) / scale[table.index[rows]]
    codes = tuple(code for code, keep in zip(table.codes, chosen, strict=True) if keep)
    return code_scaling(codes, centre[chosen], scale[chosen], float((scaled**2).sum() / samples))


Scaling = TokenScaling | CodeScaling


def fit_scaling(table: EmbeddingTable, *, minimum_samples: int = MINIMUM_SAMPLES) -> Scaling:
    """Fit the scaling of one modality on train.

    A code needs `minimum_samples` train samples that carry it.
    """
    if isinstance(table, CodeTable):
        return fit_codes(table, minimum_samples=minimum_samples)
    pooled = None if table.pooled is None else fit_columns(table.pooled[table.lengths > 0])
    return TokenScaling(fit_columns(table.values), pooled)


def _codes(table: EmbeddingTable) -> CodeTable:
    if not isinstance(table, CodeTable):
        raise FeatureError(
            "this model was fitted on codes and was given tokens; use the encoder it was trained "
            "with"
        )
    return table


def _padding(lengths: Int[np.ndarray, " sample"]) -> Bool[np.ndarray, "sample token"]:
    """Return where tokens stand in a padded array.

    At least one column, so that no axis is empty.
    """
    width = max(int(lengths.max(initial=0)), 1)
    return np.asarray(np.arange(width)[None, :] < lengths[:, None])
