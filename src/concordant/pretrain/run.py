"""Pretrain an encoder of records: rounds, early stopping on tuning, the finished checkpoint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from concordant.core.errors import ConfigError, RecordError
from concordant.core.files import DigestCache, fingerprint, write_json
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
    RECORD,
    Run,
    Trained,
    forget,
    load_state,
    save_checkpoint,
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
class _Records:
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
    """Pretrain CLMBR or MOTOR on train subjects; a run that was stopped goes on where it was.

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
    records = _read(meds, subjects, options, columns)
    trained, config = _build(records, options)
    digests = DigestCache()
    identity = _identity(meds, subjects, options, columns, digests)
    run = load_state(out, trained, identity)
    listed = listed_subjects(subjects, meds, columns=columns, digests=digests)
    if run.history:  # the weights that are there may have been left without the list
        write_subjects(out, listed)
    dictionary = _dictionary(records)
    report = progress or (lambda stage, done, total: None)
    for ended in _rounds(trained, run, records, options, report):
        if ended:
            save_checkpoint(out, trained, config, dictionary)
            write_subjects(out, listed)
        save_state(out, trained, run, identity)
        write_json(out / RECORD, _record(run, records, subjects, options))
    return Pretrained(
        out, run.best, run.epoch, len(records.entries), len(records.train), len(records.tuning)
    )


def _read(
    meds: Path, subjects: Subjects, options: PretrainOptions, columns: Mapping[str, str] | None
) -> _Records:
    entries = build_vocabulary(
        scan_shards(meds, columns=columns),
        subjects.train,
        size=options.vocabulary,
        min_subjects=options.min_subjects,
    )
    vocabulary = Flat(Dictionary(entries, is_hierarchical=False, age_scale=None))
    train, tuning = (
        read_sequences(meds, ids, vocabulary, columns=columns)
        for ids in (subjects.train, subjects.tuning)
    )
    for name, sequences in (("train", train), ("tuning", tuning)):
        without_birth, short = sequences.n_without_birth, sequences.n_short
        if without_birth or short:
            _LOG.warning(
                f"{name}: {without_birth} record(s) left out without a dated birth, {short} with "
                "fewer than two known events"
            )
        if not len(sequences):
            raise RecordError(
                f"{meds}: no {name} record has a dated birth and two events of the vocabulary; "
                "pretraining needs some"
            )
    tuning_batches = batches_of(pieces_of(tuning, options.max_length), options.batch_tokens, None)
    return _Records(entries, train, tuning, pieces_of(train, options.max_length), tuning_batches)


def _build(records: _Records, options: PretrainOptions) -> tuple[Trained, CheckpointConfig]:
    sizes = TransformerConfig(
        hidden_size=options.hidden,
        intermediate_size=options.feed_forward or 4 * options.hidden,
        n_heads=options.heads,
        n_layers=options.layers,
        vocab_size=len(records.entries),
        attention_width=options.window,
    )
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = "cuda" if on_gpu else "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = ClmbrNetwork(sizes).to(device)
        head = make_head(options, records.train, records.train_pieces, records.entries)
        head = head.to(device)
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


def _identity(
    meds: Path,
    subjects: Subjects,
    options: PretrainOptions,
    columns: Mapping[str, str] | None,
    digests: DigestCache,
) -> dict[str, Any]:
    """Return what a run must share with the one it goes on from; device and length may change."""
    free = ("device", "max_epochs", "patience")
    shards = [digests.digest(shard.path) for shard in scan_shards(meds, columns=columns)]
    ids = {"train": subjects.train.to_list(), "tuning": subjects.tuning.to_list()}
    return {
        "options": {key: value for key, value in asdict(options).items() if key not in free},
        "records": fingerprint({"shards": shards, "columns": columns}),
        "subjects": fingerprint(ids),
    }


def _dictionary(records: _Records) -> dict[str, Any]:
    days = records.train.age_days[records.train.age_days > 0].astype(np.float64)
    mean, deviation = (float(days.mean()), float(days.std())) if len(days) else (0.0, 1.0)
    stats = {"mean": mean * 86_400.0, "std": deviation * 86_400.0}
    return {"vocab": list(records.entries), "is_hierarchical": False, "age_stats": stats}


def _record(
    run: Run, records: _Records, subjects: Subjects, options: PretrainOptions
) -> dict[str, Any]:
    counts = {
        name: {
            "records": len(of),
            "events": len(of.tokens),
            "without_birth": of.n_without_birth,
            "short": of.n_short,
        }
        for name, of in (("train", records.train), ("tuning", records.tuning))
    }
    return {
        "options": asdict(options),
        "splits": subjects.source,
        "held_out_subjects": subjects.n_held_out,
        "counts": counts,
        "vocabulary": sorted(Counter(entry["type"] for entry in records.entries).items()),
        "history": run.history,
        "versions": {name: version(name) for name in ("concordant", "torch", "polars", "numpy")},
    }


def _rounds(
    trained: Trained, run: Run, records: _Records, options: PretrainOptions, report: Progress
) -> Iterator[bool]:
    """Train round by round; yield after each whether it was the best so far."""
    while run.since_best < options.patience and run.epoch < options.max_epochs:
        batches = batches_of(
            records.train_pieces, options.batch_tokens, [options.seed, 2, run.epoch]
        )
        until = min(len(batches), run.batch + -(-len(batches) // options.rounds_per_epoch))
        train_loss = _train(trained, run, records, batches[run.batch : until], options, report)
        run.batch = until
        tuning_loss = _evaluate(trained, records, options)
        better = tuning_loss < run.best
        run.best, run.since_best = (tuning_loss, 0) if better else (run.best, run.since_best + 1)
        losses = {"train_loss": train_loss, "tuning_loss": tuning_loss}
        run.history.append({"epoch": run.epoch, "step": run.step, **losses})
        _LOG.info(
            f"epoch {run.epoch}, batch {until} of {len(batches)}: train {train_loss:.4f}, tuning "
            f"{tuning_loss:.4f}"
        )
        if until == len(batches):
            run.epoch, run.batch = run.epoch + 1, 0
        yield better


def _train(
    trained: Trained,
    run: Run,
    records: _Records,
    batches: Sequence[Sequence[Piece]],
    options: PretrainOptions,
    report: Progress,
) -> float:
    trained.network.train()
    total, count = 0.0, 0
    for number, batch in enumerate(batches):
        for group in trained.optimiser.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (run.step + 1) / options.warm_up)
        loss = _loss(trained, records.train, batch, [options.seed, 3, run.step])
        run.step += 1
        stage = f"{options.objective}, epoch {run.epoch + 1} from batch {run.batch + 1}"
        report(stage, number + 1, len(batches))
        if not loss.count:
            continue
        trained.optimiser.zero_grad(set_to_none=True)
        # torch leaves it untyped
        (loss.total / loss.count).backward()  # type: ignore[no-untyped-call]
        weights = [one for group in trained.optimiser.param_groups for one in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, _CLIP)
        trained.optimiser.step()
        total, count = total + float(loss.total.detach()), count + loss.count
    return total / max(count, 1)


def _evaluate(trained: Trained, records: _Records, options: PretrainOptions) -> float:
    trained.network.eval()
    with torch.no_grad():
        losses = [
            _loss(trained, records.tuning, batch, [options.seed, _TUNING, number])
            for number, batch in enumerate(records.tuning_batches)
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
