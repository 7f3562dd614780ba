"""Pretrain an encoder of records.

Vocabulary, batches, rounds, early stopping on tuning, and the finished checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from concordant.core.errors import ConfigError, RecordError
from concordant.core.files import DigestCache, fingerprint
from concordant.data.meds import scan_shards
from concordant.data.pretraining import write_subjects
from concordant.encoders.clmbr.config import CheckpointConfig, TransformerConfig
from concordant.encoders.clmbr.network import ClmbrNetwork
from concordant.encoders.clmbr.vocabulary import Dictionary, Flat
from concordant.pretrain.objectives import Loss, make_head
from concordant.pretrain.options import PretrainOptions
from concordant.pretrain.sequences import (
    Piece,
    Sequences,
    batches_of,
    padded_pieces,
    pieces_of,
    read_sequences,
)
from concordant.pretrain.state import (
    Run,
    Trained,
    forget,
    load_state,
    save_checkpoint,
    save_record,
    save_state,
)
from concordant.pretrain.subjects import Subjects, choose_subjects, listed_subjects
from concordant.pretrain.vocabulary import build_vocabulary

_LOG = logging.getLogger(__name__)
_TUNING = 2**31
_CLIP = 1.0

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A finished pretraining.

    Attributes:
        folder: The checkpoint: `config.json`, `dictionary.msgpack` and `model.safetensors`; beside
            it `pretraining.json`, and `subjects.parquet`, which names patients and is not to be
            shared.
        tuning_loss: Least loss on the records of tuning subjects, nats per predicted code (clmbr)
            or per place, piece and task (motor).
        epochs: Epochs that were begun.
        n_tokens: Size of the vocabulary.
        n_train: Records learned from.
        n_tuning: Records that said when to stop.
    """

    folder: Path
    tuning_loss: float
    epochs: int
    n_tokens: int
    n_train: int
    n_tuning: int


@dataclass(frozen=True, slots=True)
class _Material:
    """What a run learns from.

    Attributes:
        entries: The vocabulary.
        train: Records of train subjects.
        tuning: Records of tuning subjects.
        train_pieces: Pieces of the former.
        tuning_batches: Batches of the latter, always the same.
    """

    entries: Sequence[Mapping[str, Any]]
    train: Sequences
    tuning: Sequences
    train_pieces: list[Piece]
    tuning_batches: list[list[Piece]]


def pretrain(
    meds: Path,
    out: Path,
    options: PretrainOptions | None = None,
    *,
    splits: Path | None = None,
    columns: Mapping[str, str] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Pretrained:
    """Pretrain CLMBR or MOTOR on the records of train subjects.

    A run that was stopped goes on where it was.

    The checkpoint is that of the best round on tuning, and loads like a released one. Vocabulary,
    tasks and weights are learned from train subjects alone; the records of held-out subjects are
    never read.

    Args:
        meds: A MEDS dataset.
        out: The folder of the checkpoint.
        options: Sizes and training.
        splits: A parquet file with `subject_id` and `split`, such as a study's cohort table; see
            `choose_subjects`.
        columns: What the files call a column, by its name in MEDS.
        restart: Begin anew where a run with other options or records is there.
        progress: Told after every batch.

    Raises:
        RecordError: Records or splits that cannot be read, or too few of them.
        ConfigError: A run with other options or records is there.
    """
    options = options or PretrainOptions()
    subjects = choose_subjects(meds, splits, seed=options.seed, columns=columns)
    if restart:
        forget(out)
    material = _material(meds, subjects, options, columns)
    trained, config = _build(material, options)
    digests = DigestCache()
    facts = _facts(meds, subjects, options, columns, digests)
    run = load_state(out, trained, facts)
    listed = listed_subjects(subjects, meds, columns=columns, digests=digests)
    if run.history:  # the weights that are there may have been left without the list
        write_subjects(out, listed)
    dictionary = _dictionary(material)
    for ended in _rounds(trained, run, material, options, progress or _silent):
        if ended:
            save_checkpoint(out, trained, config, dictionary)
            write_subjects(out, listed)
        save_state(out, trained, run, facts)
        save_record(out, _record(run, material, subjects, options))
    return Pretrained(
        out, run.best, run.epoch, len(material.entries), len(material.train), len(material.tuning)
    )


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


def _material(
    meds: Path, subjects: Subjects, options: PretrainOptions, columns: Mapping[str, str] | None
) -> _Material:
    entries = build_vocabulary(
        scan_shards(meds, columns=columns),
        subjects.train,
        size=options.vocabulary,
        min_subjects=options.min_subjects,
    )
    vocabulary = Flat(Dictionary(entries, is_hierarchical=False, age_scale=None))
    train = read_sequences(meds, subjects.train, vocabulary, columns=columns)
    tuning = read_sequences(meds, subjects.tuning, vocabulary, columns=columns)
    for name, sequences in (("train", train), ("tuning", tuning)):
        left_out = sequences.n_without_birth + sequences.n_short
        if left_out:
            _LOG.warning(
                "%s: %d record(s) left out without a dated birth, %d with fewer than two known "
                "events",
                name,
                sequences.n_without_birth,
                sequences.n_short,
            )
        if not len(sequences):
            raise RecordError(
                f"{meds}: no {name} record has a dated birth and two events of the vocabulary; "
                "pretraining needs some"
            )
    tuning_batches = batches_of(pieces_of(tuning, options.max_length), options.batch_tokens, None)
    return _Material(entries, train, tuning, pieces_of(train, options.max_length), tuning_batches)


def _build(material: _Material, options: PretrainOptions) -> tuple[Trained, CheckpointConfig]:
    sizes = TransformerConfig(
        hidden_size=options.hidden,
        intermediate_size=options.feed_forward or 4 * options.hidden,
        n_heads=options.heads,
        n_layers=options.layers,
        vocab_size=len(material.entries),
        attention_width=options.window,
    )
    device = (
        "cuda"
        if options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
        else "cpu"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ClmbrNetwork(sizes).to(device)
        head = make_head(options, material.train, material.train_pieces, material.entries).to(
            device
        )
    parameters = [*network.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=options.learning_rate, weight_decay=options.weight_decay
    )
    config = CheckpointConfig(
        sizes,
        options.objective,
        head.task_options(),
        "that of the records it was trained on",
        ("own records",),
    )
    return Trained(network, head, optimiser), config


def _facts(
    meds: Path,
    subjects: Subjects,
    options: PretrainOptions,
    columns: Mapping[str, str] | None,
    digests: DigestCache,
) -> dict[str, Any]:
    """Return what a run must share with the one it goes on from.

    Where it runs, and how long at most, may change.
    """
    free = ("device", "max_epochs", "patience")
    return {
        "options": {key: value for key, value in asdict(options).items() if key not in free},
        "records": fingerprint(
            {
                "shards": [
                    digests.digest(shard.path) for shard in scan_shards(meds, columns=columns)
                ],
                "columns": columns,
            }
        ),
        "subjects": fingerprint(
            {"train": subjects.train.to_list(), "tuning": subjects.tuning.to_list()}
        ),
    }


def _dictionary(material: _Material) -> dict[str, Any]:
    days = material.train.age_days[material.train.age_days > 0].astype(np.float64)
    mean, deviation = (float(days.mean()), float(days.std())) if len(days) else (0.0, 1.0)
    stats = {"mean": mean * 86_400.0, "std": deviation * 86_400.0}
    return {"vocab": list(material.entries), "is_hierarchical": False, "age_stats": stats}


def _record(
    run: Run, material: _Material, subjects: Subjects, options: PretrainOptions
) -> dict[str, Any]:
    counts = {
        name: {
            "records": len(of),
            "events": len(of.tokens),
            "without_birth": of.n_without_birth,
            "short": of.n_short,
        }
        for name, of in (("train", material.train), ("tuning", material.tuning))
    }
    return {
        "options": asdict(options),
        "splits": subjects.source,
        "held_out_subjects": subjects.n_held_out,
        "counts": counts,
        "vocabulary": pl.Series([entry["type"] for entry in material.entries])
        .value_counts()
        .sort("")
        .rows()
        if material.entries
        else [],
        "history": run.history,
        "versions": {name: version(name) for name in ("concordant", "torch", "polars", "numpy")},
    }


def _rounds(
    trained: Trained, run: Run, material: _Material, options: PretrainOptions, report: Progress
) -> Iterator[bool]:
    """Train round by round; yield after each whether it was the best so far."""
    while run.since_best < options.patience and run.epoch < options.max_epochs:
        batches = batches_of(
            material.train_pieces, options.batch_tokens, [options.seed, 2, run.epoch]
        )
        until = min(len(batches), run.batch + -(-len(batches) // options.rounds_per_epoch))
        train_loss = _train(trained, run, material, batches[run.batch : until], options, report)
        run.batch = until
        tuning_loss = _evaluate(trained, material, options)
        better = tuning_loss < run.best
        run.best, run.since_best = (tuning_loss, 0) if better else (run.best, run.since_best + 1)
        run.history.append(
            {
                "epoch": run.epoch,
                "step": run.step,
                "train_loss": train_loss,
                "tuning_loss": tuning_loss,
            }
        )
        _LOG.info(
            "epoch %d, batch %d of %d: train %.4f, tuning %.4f",
            run.epoch,
            until,
            len(batches),
            train_loss,
            tuning_loss,
        )
        if until == len(batches):
            run.epoch, run.batch = run.epoch + 1, 0
        yield better


def _train(
    trained: Trained,
    run: Run,
    material: _Material,
    batches: Sequence[Sequence[Piece]],
    options: PretrainOptions,
    report: Progress,
) -> float:
    trained.network.train()
    total, count = 0.0, 0
    for number, batch in enumerate(batches):
        for group in trained.optimiser.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (run.step + 1) / options.warm_up)
        loss = _loss(trained, material.train, batch, [options.seed, 3, run.step])
        run.step += 1
        report(
            f"{options.objective}, epoch {run.epoch + 1} from batch {run.batch + 1}",
            number + 1,
            len(batches),
        )
        if not loss.count:
            continue
        trained.optimiser.zero_grad(set_to_none=True)
        # torch leaves it untyped
        (loss.total / loss.count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(
            [
                parameter
                for group in trained.optimiser.param_groups
                for parameter in group["params"]
            ],
            _CLIP,
        )
        trained.optimiser.step()
        total, count = total + float(loss.total.detach()), count + loss.count
    return total / max(count, 1)


def _evaluate(trained: Trained, material: _Material, options: PretrainOptions) -> float:
    trained.network.eval()
    with torch.no_grad():
        losses = [
            _loss(trained, material.tuning, batch, [options.seed, _TUNING, number])
            for number, batch in enumerate(material.tuning_batches)
        ]
    count = sum(loss.count for loss in losses)
    if not count:
        raise RecordError(
            "the tuning records hold nothing that the objective asks for; give more tuning subjects"
        )
    mean = sum(float(loss.total) for loss in losses) / count
    if not np.isfinite(mean):
        raise ConfigError(
            f"the loss on tuning is {mean}: training went astray; lower learning_rate (given "
            f"{options.learning_rate})"
        )
    return mean


def _loss(
    trained: Trained, sequences: Sequences, pieces: Sequence[Piece], seed: Sequence[int]
) -> Loss:
    device = next(trained.network.parameters()).device.type
    batch = padded_pieces(sequences, pieces).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        hidden = trained.network(batch.tokens, batch.age_days, batch.valid)
        return trained.head.loss(hidden, batch, sequences, pieces, seed)
