"""Encoders of records with the network of CLMBR: the last events' hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float32

from concordant.core.embedding import TokenEmbedding
from concordant.core.errors import ConfigError, WeightsError
from concordant.core.events import Events
from concordant.encoders.base import ENCODERS, EncoderCard, RecordEncoder
from concordant.encoders.clmbr.batching import batches_by_length, padded
from concordant.encoders.clmbr.checkpoint import load_clmbr
from concordant.encoders.clmbr.config import (
    CLMBR,
    CONFIG,
    DICTIONARY,
    MODEL,
    MOTOR,
    CheckpointConfig,
    read_config,
)
from concordant.encoders.clmbr.network import ClmbrNetwork
from concordant.encoders.clmbr.tokenizer import TokenSequence, bags_of, tokenize
from concordant.encoders.clmbr.vocabulary import (
    Dictionary,
    Flat,
    Hierarchical,
    Vocabulary,
    read_dictionary,
)
from concordant.encoders.code_terms import read_ontology
from concordant.encoders.network import Device
from concordant.encoders.weights import WeightsFolder, WeightsOption, open_weights

_RELEASED_LICENCE = "CC-BY-NC-4.0"
_RELEASED_DATA = ("STARR-OMOP",)
"""Of Stanford Medicine, where INSPECT and EHRSHOT come from as well."""
_REQUIRED_COVERAGE = 0.1


class RecordTransformer(RecordEncoder):
    """Base of the encoders with the network of CLMBR.

    Besides the contract of every encoder:

    * A process loads the same weights once, when the first record is encoded; the encoder itself
      can be sent to another process.
    * A record longer than the network can look back (all layers together) is cut to what its last
      `max_tokens` states depend on; they are the same as of the whole record.
    * On a GPU the network runs in bfloat16 (autocast), on a CPU in float32; what it returns is
      float32.

    Args:
        weights: The folder with `config.json`, `dictionary.msgpack` and `model.safetensors`:
            released ones, those of `concordant pretrain`, or a reference to the hub.
        max_tokens: Hidden states kept, the last of the record.
        batch_tokens: Events that go through the network together.
        device: "auto" takes a GPU where there is one.
        ontology: Codes and their parents, for a hierarchical vocabulary; a parquet file with the
            columns code and parent_codes.
        force: Encode even where the vocabulary has less than a tenth of the cohort's events.

    Attributes:
        task: The task of the checkpoints it reads.
    """

    task: ClassVar[str]
    version = 2
    reads_text: ClassVar[bool] = True
    has_vocabulary: ClassVar[bool] = True
    options_of_no_effect: ClassVar[frozenset[str]] = frozenset({"force", "weights"})

    def __init__(
        self,
        *,
        weights: WeightsOption,
        max_tokens: int = 64,
        batch_tokens: int = 8192,
        device: Device = "auto",
        ontology: Path | None = None,
        force: bool = False,
    ) -> None:
        for name, value in (("max_tokens", max_tokens), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise ConfigError(
                    f"encoder {self.task!r}, option {name}: {value} given, expected at least 1"
                )
        self.weights = weights
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.ontology = ontology
        self.required_coverage = 0.0 if force else _REQUIRED_COVERAGE
        self._device = device

    @property
    def device(self) -> str:
        """Where the network runs: a GPU where there is one and the options do not forbid it."""
        if self._device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self._device

    @property
    def card(self) -> EncoderCard:
        """What this encoder declares of itself; read from the `config.json` beside the weights."""
        width = self.config.transformer.hidden_size
        return EncoderCard(
            kind="tokens",
            token_dim=width,
            pooled_dim=width,
            max_tokens=self.max_tokens,
            licence=self.config.licence or _RELEASED_LICENCE,
            training_data=self.config.training_data or _RELEASED_DATA,
        )

    @cached_property
    def config(self) -> CheckpointConfig:
        """The configuration beside the weights.

        Raises:
            WeightsError: It is missing or damaged, or of a checkpoint that was trained for another
                task.
        """
        path = open_weights(self.weights, files=(CONFIG,)).path(CONFIG)
        config = read_config(path)
        if config.task in (CLMBR, MOTOR) and config.task != self.task:
            raise WeightsError(
                f"{path}: task_type is {config.task!r}; give these weights to the encoder "
                f"{config.task!r}"
            )
        return config

    @cached_property
    def folder(self) -> WeightsFolder:
        """The folder with the weights, fetched if it is on the hub."""
        return open_weights(self.weights, files=(CONFIG, DICTIONARY, MODEL))

    @property
    def weights_digest(self) -> str:
        """The digest of the weights and the vocabulary."""
        return self.folder.digest

    @property
    def pretraining_folder(self) -> Path:
        """The folder of the weights."""
        return open_weights(self.weights, files=(CONFIG,)).folder

    def known_events(self, record: Events) -> int:
        """Return how many events of a record the vocabulary has."""
        return sum(1 for bag in bags_of(record, self._vocabulary) if bag.tokens)

    def encode(self, records: Sequence[Events]) -> list[TokenEmbedding]:
        """Encode records in batches of like length; without a known event there is no token.

        Raises:
            RecordError: A record without a birth event.
            WeightsError: The weights cannot be had, or are not this network's.
        """
        nothing = np.zeros((0, self.config.transformer.hidden_size), np.float32)
        vocabulary = self._vocabulary
        sequences = [tokenize(record, vocabulary) for record in records]
        states = iter(self.states([sequence for sequence in sequences if len(sequence)]))
        return [
            _embedding(next(states)) if len(sequence) else TokenEmbedding(nothing)
            for sequence in sequences
        ]

    def states(self, sequences: Sequence[TokenSequence]) -> list[Float32[np.ndarray, "event dim"]]:
        """Return the hidden states of the last `max_tokens` events of each sequence.

        Raises:
            WeightsError: The weights cannot be had, or are not this network's.
        """
        network = self._network
        cut = [sequence.last(network.reach + self.max_tokens) for sequence in sequences]
        states: dict[int, Float32[np.ndarray, "event dim"]] = {}
        for batch in batches_by_length([len(sequence) for sequence in cut], self.batch_tokens):
            found = self._of_batch(network, [cut[number] for number in batch])
            states.update(zip(batch, found, strict=True))
        return [states[number] for number in range(len(sequences))]

    def _of_batch(
        self, network: ClmbrNetwork, sequences: Sequence[TokenSequence]
    ) -> Iterator[Float32[np.ndarray, "event dim"]]:
        batch = padded(sequences, bags=network.sizes.is_hierarchical).to(self.device)
        faster = torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu")
        with torch.inference_mode(), faster:
            hidden = network(batch.tokens, batch.age_days, batch.valid, weights=batch.weights)
        for row, sequence in enumerate(sequences):
            start = max(0, len(sequence) - self.max_tokens)
            yield hidden[row, start : len(sequence)].float().cpu().numpy().copy()

    @property
    def _network(self) -> ClmbrNetwork:
        return _loaded(self.folder, self.folder.digest, self.device)

    @property
    def _vocabulary(self) -> Vocabulary:
        sizes = self._network.sizes  # the network first: what is no CLMBR at all is refused as such
        path, digest = self.folder.path(DICTIONARY), self.folder.digest
        return _read(path, digest, sizes.vocab_size, sizes.is_hierarchical, self.ontology)


def _embedding(states: Float32[np.ndarray, "event dim"]) -> TokenEmbedding:
    return TokenEmbedding(states, states[-1].copy())


@lru_cache(maxsize=1)  # a process encodes with one network at a time
def _loaded(folder: WeightsFolder, digest: str, device: str) -> ClmbrNetwork:
    """Load a network; `digest` tells weights that were replaced from those loaded."""
    return load_clmbr(folder.folder).requires_grad_(requires_grad=False).to(device)


@lru_cache(maxsize=1)
def _read(
    path: Path, digest: str, vocab_size: int, is_hierarchical: bool, ontology: Path | None
) -> Vocabulary:
    dictionary = read_dictionary(path)
    _check_fit(path, dictionary, vocab_size, is_hierarchical)
    if not is_hierarchical:
        return Flat(dictionary)
    if ontology is None:
        raise WeightsError(
            f"{path}: the vocabulary is hierarchical, so codes are looked up with their ancestors: "
            "give the option `ontology`, a parquet file with the columns code and parent_codes, "
            "such as metadata/codes.parquet of a MEDS dataset"
        )
    return Hierarchical(dictionary, read_ontology(ontology, None))


def _check_fit(path: Path, dictionary: Dictionary, vocab_size: int, is_hierarchical: bool) -> None:
    """Refuse a vocabulary of another network."""
    if len(dictionary.entries) > vocab_size or dictionary.is_hierarchical != is_hierarchical:
        kinds = {True: "hierarchical", False: "flat"}
        raise WeightsError(
            f"{path}: {len(dictionary.entries)} entries, {kinds[dictionary.is_hierarchical]}; the "
            f"network beside it takes {vocab_size}, {kinds[is_hierarchical]}. The files are not of "
            "the same model"
        )


@ENCODERS.register("clmbr")
class Clmbr(RecordTransformer):
    """Encode a record with CLMBR (Steinberg 2021): tokens of the last events, pooled the last.

    Options are those of `RecordTransformer`; weights on the hub:
    `hf:StanfordShahLab/clmbr-t-base@REVISION` (gated, CC-BY-NC-4.0).
    """

    task = CLMBR
