"""Options of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from concordant.core.errors import ConfigError
from concordant.encoders.network import Device

Objective = Literal["clmbr", "motor"]
OBJECTIVES = ("clmbr", "motor")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """How an encoder of records is pretrained.

    Attributes:
        objective: "clmbr" (the next code) or "motor" (the time to the next occurrence of each of
            many codes).
        hidden: Width of a hidden state.
        layers: Layers.
        heads: Attention heads.
        feed_forward: Width of the feed-forward part; None = four times `hidden`.
        window: Events in the attention window.
        vocabulary: Most tokens of the vocabulary.
        min_subjects: A token has to occur in the records of so many train subjects.
        predicted: Most tokens that the head of "clmbr" predicts.
        tasks: Most codes whose times "motor" predicts.
        time_bins: Pieces of the hazard of "motor", cut at percentiles of the times to events.
        head_width: Width of a piece in the head of "motor".
        max_epochs: Most passes over the train records.
        patience: Rounds without a better likelihood on tuning after which to stop.
        rounds_per_epoch: Rounds in a pass; after each, tuning is looked at and the state is kept.
        batch_tokens: Events in a batch.
        max_length: Longer records are cut into pieces of so many events.
        learning_rate: Of AdamW, after a linear rise over `warm_up` batches.
        warm_up: Batches until the learning rate is reached.
        weight_decay: Of AdamW.
        seed: Of weights, order and sampled places.
        device: "auto" takes a GPU where there is one.

    Raises:
        ConfigError: An option that cannot be.
    """

    objective: Objective = "clmbr"
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int | None = None
    window: int = 496
    vocabulary: int = 16_384
    min_subjects: int = 5
    predicted: int = 8192
    tasks: int = 512
    time_bins: int = 8
    head_width: int = 64
    max_epochs: int = 50
    patience: int = 5
    rounds_per_epoch: int = 1
    batch_tokens: int = 4096
    max_length: int = 2048
    learning_rate: float = 1e-3
    warm_up: int = 100
    weight_decay: float = 0.01
    seed: int = 0
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.device not in DEVICES:
            raise ConfigError(f"device is {self.device!r}; expected {', '.join(DEVICES)}")
        if self.objective not in OBJECTIVES:
            raise ConfigError(
                f"objective is {self.objective!r}; expected {' or '.join(OBJECTIVES)}"
            )
        for name in (
            "hidden",
            "layers",
            "heads",
            "window",
            "vocabulary",
            "min_subjects",
            "predicted",
            "tasks",
            "time_bins",
            "head_width",
        ):
            self._at_least_one(name)
        for name in (
            "max_epochs",
            "patience",
            "rounds_per_epoch",
            "batch_tokens",
            "max_length",
            "warm_up",
        ):
            self._at_least_one(name)
        if self.hidden % (2 * self.heads):
            raise ConfigError(
                f"hidden is {self.hidden}, heads {self.heads}; hidden has to divide into heads of "
                "an even width"
            )
        if self.max_length < 2 or not self.learning_rate > 0:
            raise ConfigError(
                f"max_length is {self.max_length}, learning_rate {self.learning_rate}; expected at "
                "least 2, and more than 0"
            )

    def _at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
