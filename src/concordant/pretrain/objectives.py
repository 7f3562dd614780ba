"""What the network learns to tell: the next code (CLMBR), or the times to many (MOTOR)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from concordant.core.errors import RecordError
from concordant.encoders.clmbr.batching import Batch
from concordant.pretrain.options import PretrainOptions
from concordant.pretrain.sequences import Piece, Sequences

_SECONDS_PER_DAY = 86_400.0
_SHARE_OF_PLACES = 10
_LEAST_PLACES = 5
_STATISTICS_PLACES = 20_000


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss as a sum, so that batches can be added up.

    Attributes:
        total: Summed negative log-likelihood, nats.
        count: How many terms it sums.
    """

    total: Float[Tensor, ""]
    count: int


class Head(nn.Module, ABC):
    """What stands on the network while it is trained, its parameters named as released."""

    @abstractmethod
    def loss(
        self,
        hidden: Float[Tensor, "batch event dim"],
        batch: Batch,
        sequences: Sequences,
        pieces: Sequence[Piece],
        seed: Sequence[int],
    ) -> Loss:
        """Return the loss of a batch; `seed` draws the places that are asked, where not all are."""

    @abstractmethod
    def task_options(self) -> Mapping[str, Any]:
        """Return what `config.json` says of the task."""


class NextCode(Head):
    """Predict the next event's token by softmax, at every event after which one of the first
    `n_predicted` tokens follows.

    Steinberg et al. 2021, J Biomed Inform 113:103637.
    """

    def __init__(self, hidden: int, n_predicted: int) -> None:
        super().__init__()
        self.final_layer = nn.Linear(hidden, n_predicted)

    def loss(
        self,
        hidden: Float[Tensor, "batch event dim"],
        batch: Batch,
        sequences: Sequences,
        pieces: Sequence[Piece],
        seed: Sequence[int],
    ) -> Loss:
        """Return the cross-entropy of the tokens that follow."""
        following = batch.tokens[:, 1:]
        asked = batch.valid[:, 1:] & (following < self.final_layer.out_features)
        logits = self.final_layer(hidden[:, :-1][asked])
        return Loss(
            functional.cross_entropy(logits.float(), following[asked], reduction="sum"),
            int(asked.sum()),
        )

    def task_options(self) -> Mapping[str, Any]:
        """Return the number of predicted tokens."""
        return {"clmbr_vocab_size": self.final_layer.out_features}


@dataclass(frozen=True, slots=True)
class TimeTasks:
    """What MOTOR predicts: the time to the next occurrence of each of some codes, in pieces.

    Attributes:
        tokens: Token of each task's code.
        codes: The codes.
        rates: Events per second of each, over all places; they start the head's bias.
        edges: Edges of the pieces in seconds, from 0 to infinity.
    """

    tokens: Int[np.ndarray, " task"]
    codes: tuple[str, ...]
    rates: Float[np.ndarray, " task"]
    edges: Float[np.ndarray, " bin_plus_one"]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What lies ahead of some places.

    Attributes:
        seconds: Time to the next occurrence of each task's code, or, where none follows, to the
            record's last event.
        observed: Whether one follows.
    """

    seconds: Float[np.ndarray, "place task"]
    observed: Bool[np.ndarray, "place task"]


def outlook(
    sequences: Sequences,
    rows: Int[np.ndarray, " place"],
    record_end: int,
    tokens: Int[np.ndarray, " task"],
) -> Outlook:
    """Look ahead from places of one record; only what is strictly later counts.

    Args:
        sequences: The records.
        rows: The places, rows of one record.
        record_end: The row after the record's last.
        tokens: Token of each task.
    """
    ages = sequences.age_days[rows]
    later = slice(int(rows.min()) if len(rows) else record_end, record_end)
    ahead, when = sequences.tokens[later], sequences.age_days[later]
    days = np.repeat((sequences.age_days[record_end - 1] - ages)[:, None], len(tokens), 1)
    observed = np.zeros(days.shape, bool)
    for task in np.flatnonzero(np.isin(tokens, ahead)):
        times = when[ahead == tokens[task]]
        following = np.searchsorted(times, ages, side="right")
        found = following < len(times)
        days[found, task] = times[following[found]] - ages[found]
        observed[found, task] = True
    return Outlook(days * _SECONDS_PER_DAY, observed)


def places_of(sequences: Sequences, piece: Piece) -> Int[np.ndarray, " row"]:
    """Return a piece's rows with a hazard: last of their time, after birth, followed."""
    ages = sequences.age_days[piece.start : min(piece.end + 1, piece.record_end)]
    changes = np.flatnonzero(np.diff(ages) > 0)
    return piece.start + changes[ages[changes] >= 1.0]


def sampled_places(
    sequences: Sequences, piece: Piece, generator: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """Draw a tenth of a piece's places, at least five where there are so many."""
    places = places_of(sequences, piece)
    wanted = min(len(places), max(_LEAST_PLACES, len(piece) // _SHARE_OF_PLACES))
    return np.sort(generator.choice(places, wanted, replace=False))


def time_tasks(
    sequences: Sequences,
    pieces: Sequence[Piece],
    entries: Sequence[Mapping[str, Any]],
    *,
    n_tasks: int,
    n_bins: int,
    seed: int,
) -> TimeTasks:
    """Choose the tasks and the pieces of the hazard from train records.

    Tasks are the first codes of the vocabulary, other than the birth, that follow any of the places
    looked at; the edges are percentiles of the times to them.

    Raises:
        RecordError: No code follows any event.
    """
    codes = [token for token, entry in enumerate(entries) if entry["type"] == "code"]
    candidates = np.array(codes[1:][:n_tasks], np.int64)
    generator = np.random.default_rng([seed, 1])
    looked = _looked_at(sequences, pieces, candidates, generator)
    seconds, observed = looked.seconds, looked.observed
    counts = observed.sum(0)
    kept = counts > 0
    if not kept.any():
        raise RecordError(
            "no code of the vocabulary follows an event in the train records; MOTOR needs codes "
            "without a value, in time"
        )
    times = seconds[observed]
    edges = np.percentile(times, np.linspace(0, 100, n_bins + 1))
    edges[0], edges[-1] = 0.0, math.inf
    tokens = candidates[kept]
    return TimeTasks(
        tokens,
        tuple(entries[token]["code_string"] for token in tokens),
        counts[kept] / seconds[:, kept].sum(0),
        np.unique(edges),
    )


def _looked_at(
    sequences: Sequences,
    pieces: Sequence[Piece],
    tokens: Int[np.ndarray, " task"],
    generator: np.random.Generator,
) -> Outlook:
    looked, n_places = [], 0
    for number in generator.permutation(len(pieces)):
        piece = pieces[number]
        places = sampled_places(sequences, piece, generator)
        looked.append(outlook(sequences, places, piece.record_end, tokens))
        n_places += len(places)
        if n_places >= _STATISTICS_PLACES:
            break
    return Outlook(
        np.concatenate([one.seconds for one in looked]),
        np.concatenate([one.observed for one in looked]),
    )


class TimeToEvent(Head):
    """Predict per code 2 to the power of hazards per second, constant within pieces of time.

    MOTOR, Steinberg et al. 2023 (arXiv:2301.03150): the loss of a piece is its hazard times the
    time spent in it, less the log-hazard where the event lies in it; the mean over places, pieces
    and codes.
    """

    def __init__(self, hidden: int, width: int, tasks: TimeTasks) -> None:
        super().__init__()
        self.tasks = tasks
        self.width = width
        self.final_layer = nn.Linear(hidden, (len(tasks.edges) - 1) * width)
        self.task_layer = nn.Linear(width, len(tasks.tokens))
        with torch.no_grad():
            self.task_layer.bias.copy_(torch.from_numpy(np.log2(tasks.rates)))

    def loss(
        self,
        hidden: Float[Tensor, "batch event dim"],
        batch: Batch,
        sequences: Sequences,
        pieces: Sequence[Piece],
        seed: Sequence[int],
    ) -> Loss:
        """Return the loss at a tenth of the places."""
        generator = np.random.default_rng(list(seed))
        chosen = [sampled_places(sequences, piece, generator) for piece in pieces]
        looks = [
            outlook(sequences, rows, piece.record_end, self.tasks.tokens)
            for rows, piece in zip(chosen, pieces, strict=True)
        ]
        where = [
            (row, place - piece.start)
            for row, (rows, piece) in enumerate(zip(chosen, pieces, strict=True))
            for place in rows
        ]
        if not where:
            return Loss(hidden.sum() * 0.0, 0)
        index = torch.tensor(where, device=hidden.device).T
        seconds = torch.from_numpy(np.concatenate([one.seconds for one in looks]))
        observed = torch.from_numpy(np.concatenate([one.observed for one in looks]))
        losses = self.losses(
            hidden[index[0], index[1]],
            seconds.to(hidden.device, torch.float32),
            observed.to(hidden.device),
        )
        return Loss(losses.mean((1, 2)).sum(), len(losses))

    def log_hazards(self, hidden: Float[Tensor, "place dim"]) -> Float[Tensor, "place bin task"]:
        """Return log2 of the hazard per second."""
        pieces = self.final_layer(hidden).reshape(len(hidden), -1, self.width)
        return torch.as_tensor(self.task_layer(pieces).float())

    def losses(
        self,
        hidden: Float[Tensor, "place dim"],
        seconds: Float[Tensor, "place task"],
        observed: Bool[Tensor, "place task"],
    ) -> Float[Tensor, "place bin task"]:
        """Return the negative log-likelihood of every piece, in nats."""
        logits = self.log_hazards(hidden)
        edges = torch.tensor(self.tasks.edges, device=hidden.device, dtype=torch.float32)[:, None]
        start, end = edges[:-1], edges[1:]
        spent = torch.minimum(seconds[:, None], end) - start
        log_spent = torch.log2(spent.clamp(min=torch.finfo(spent.dtype).tiny))
        survived = torch.where(spent > 0, torch.exp2(logits + log_spent), 0.0)
        within = observed[:, None] & (seconds[:, None] > start) & (seconds[:, None] <= end)
        return survived - math.log(2) * torch.where(within, logits, 0.0)

    def task_options(self) -> Mapping[str, Any]:
        """Return the tasks with their rates, and the pieces; the last has no end, in JSON null."""
        rates = zip(self.tasks.codes, self.tasks.rates.tolist(), strict=True)
        return {
            "final_layer_size": self.width,
            "pretraining_task_info": [[code, rate] for code, rate in rates],
            "time_bins": [*self.tasks.edges[:-1].tolist(), None],
        }


def make_head(
    options: PretrainOptions,
    sequences: Sequences,
    pieces: Sequence[Piece],
    entries: Sequence[Mapping[str, Any]],
) -> Head:
    """Return the head of an objective, what it needs fitted on train records."""
    if options.objective == "clmbr":
        return NextCode(options.hidden, min(options.predicted, len(entries)))
    tasks = time_tasks(
        sequences,
        pieces,
        entries,
        n_tasks=options.tasks,
        n_bins=options.time_bins,
        seed=options.seed,
    )
    return TimeToEvent(options.hidden, options.head_width, tasks)
