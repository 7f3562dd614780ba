"""Every encoder: a function from scans or records to tokens or codes, learned from nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from concordant.core.embedding import CodeEmbedding, CodeTable, TokenEmbedding
from concordant.core.errors import ConfigError
from concordant.core.events import Events
from concordant.core.modality import Modality
from concordant.core.registry import Registry
from concordant.core.volume import StoredVolume, Volume


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What an encoder declares of itself.

    Attributes:
        kind: "tokens" (vectors) or "codes" (a sparse multi-hot record).
        token_dim: Width of a token; None for codes.
        pooled_dim: Width of the pooled vector; None where there is none.
        max_tokens: Greatest number of tokens per sample; None for codes, where the data decides.
        dtype: Type in the store.
        licence: Licence of the weights, or of the code where there are none.
        training_data: Names of the public cohorts the weights were trained on, for leakage
            warnings.
        spacing_mm: Input spacing (depth, height, width), or None = native.
        window_hu: Input window, or None.
    """

    kind: Literal["tokens", "codes"]
    token_dim: int | None = None
    pooled_dim: int | None = None
    max_tokens: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    licence: str = "Apache-2.0"
    training_data: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] | None = None
    window_hu: tuple[float, float] | None = None


class Encoder(ABC):
    """Base of every encoder.

    The contract (one test per line, run over the registry):

    * The same bytes in give the same tokens out; a batch equals the loop over its members.
    * `card` declares token width, greatest token count, dtype, licence, input spacing and window,
      training data.
    * Weights are loaded from safetensors or with `weights_only=True`.
    * An encoder of scans says where in a scan each token lies, or that tokens have no fixed place
      (`token_boxes`).
    * Nothing is learned from the cohort: `encode` depends on its argument and the options alone.

    Attributes:
        modality: The modality it reads.
        version: Raised when the output changes, so that stores made before are made again.
        options_of_no_effect: Options that change nothing in the output, or count by
            `weights_digest`: a store is not made again where one of them changes.
    """

    modality: ClassVar[Modality]
    version: ClassVar[int] = 1
    options_of_no_effect: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def card(self) -> EncoderCard:
        """What this encoder declares of itself."""

    @property
    def device(self) -> str:
        """Where it works in this process, "cpu" or "cuda"; the two differ in their last digits."""
        return "cpu"

    @property
    def weights_digest(self) -> str | None:
        """The digest of the weights; None where there are none."""
        return None

    @property
    def pretraining_folder(self) -> Path | None:
        """Where `concordant pretrain` lists its subjects; None if it makes no such weights."""
        return None


class VolumeEncoder(Encoder):
    """An encoder of scans."""

    modality: ClassVar[Modality] = Modality.CT

    @abstractmethod
    def encode(self, volumes: Sequence[Volume]) -> list[TokenEmbedding]:
        """Encode volumes one by one or as a batch, with the same result.

        Raises:
            VolumeError: A volume this encoder cannot read (an empty mask, a wrong field of view);
                it is quarantined with the reason.
        """

    def token_boxes(self, volume: Volume | StoredVolume) -> Float[np.ndarray, "token 2 3"] | None:
        """Return where in a scan each token lies, without weights; None without a fixed place.

        Returns:
            Low and high corner in voxels of the scan (depth, height, width), fractional, counted
            from the scan's outer edge: voxel i runs from i to i + 1. A token of padding has a box
            without extent, at the rim.
        """
        return None


class RecordEncoder(Encoder):
    """An encoder of health records.

    Attributes:
        reads_text: Whether it wants the events' text; without, texts are not handed to it.
        has_vocabulary: Whether its weights fix which codes it knows; then `known_events` counts
            them.
        required_coverage: Share of a cohort's events that this vocabulary must have; a cohort below
            it is refused.
    """

    modality: ClassVar[Modality] = Modality.EHR
    reads_text: ClassVar[bool] = False
    has_vocabulary: ClassVar[bool] = False
    required_coverage: float = 0.0

    @abstractmethod
    def encode(
        self, records: Sequence[Events]
    ) -> CodeTable | list[CodeEmbedding] | list[TokenEmbedding]:
        """Encode records, with the same result one by one or as a batch, to packed codes or a list.

        Raises:
            RecordError: A record this encoder cannot read (no birth); it is quarantined with the
                message, which names no subject.
        """

    def known_events(self, record: Events) -> int:
        """Return how many events of a record the encoder knows: all, without a vocabulary."""
        return len(record.code)


ENCODERS: Registry[Encoder] = Registry("encoder")


def require_at_least_one(encoder: str, **options: int | None) -> None:
    """Refuse an option of an encoder that is below 1; None passes.

    Raises:
        ConfigError: Names the encoder, the option and what was given.
    """
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigError(
                f"encoder {encoder!r}, option {name}: {value} given, expected at least 1"
            )
