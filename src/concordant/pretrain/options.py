"""Options of pretraining; the command line makes one option of each field."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from concordant.core.errors import ConfigError
from concordant.encoders.network import Device

Objective = Literal["clmbr", "motor"]


def _option(default: Any, description: str, *, least: int | None = None) -> Any:
    return field(default=default, metadata={"help": description, "least": least})


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainOptions:
    """How an encoder of records is pretrained; each field's `help` says what it is.

    Raises:
        ConfigError: An option that cannot be.
    """

    objective: Objective = field(
        default="clmbr", metadata={"help": "clmbr: the next code; motor: the times to many codes."}
    )
    hidden: int = _option(128, "Width of a hidden state.", least=1)
    layers: int = _option(4, "Layers.", least=1)
    heads: int = _option(4, "Attention heads.", least=1)
    feed_forward: int | None = _option(
        None, "Width of the feed-forward part; four times --hidden unless given.", least=1
    )
    window: int = _option(496, "Events in the attention window.", least=1)
    vocabulary: int = _option(16_384, "Most tokens of the vocabulary.", least=2)
    min_subjects: int = _option(
        5, "A token occurs in the records of so many train subjects.", least=1
    )
    predicted: int = _option(8192, "clmbr: most tokens that are predicted.", least=1)
    tasks: int = _option(512, "motor: most codes whose times are learned.", least=1)
    time_bins: int = _option(
        8, "motor: pieces of the hazard, cut at percentiles of the times to events.", least=1
    )
    head_width: int = _option(64, "motor: width of a piece in the head.", least=1)
    max_epochs: int = _option(50, "Most passes over the train records.", least=1)
    patience: int = _option(
        5, "Rounds without a better tuning likelihood after which to stop.", least=1
    )
    rounds_per_epoch: int = _option(
        1, "Rounds in a pass; after each, tuning is looked at and the state is kept.", least=1
    )
    batch_tokens: int = _option(4096, "Events in a batch.", least=1)
    max_length: int = _option(2048, "Longer records are cut into pieces of so many.", least=2)
    learning_rate: float = _option(1e-3, "Of AdamW, after a linear rise over the warm-up.")
    warm_up: int = _option(100, "Batches until the learning rate is reached.", least=1)
    weight_decay: float = _option(0.01, "Of AdamW.")
    seed: int = _option(0, "Of weights, order and sampled places.", least=0)
    device: Device = field(
        default="auto", metadata={"help": "auto (a GPU where there is one), cpu or cuda."}
    )

    def __post_init__(self) -> None:
        """Check each option, and what belongs together."""
        for name, words in (("objective", Objective), ("device", Device)):
            given, known = getattr(self, name), get_args(words)
            if given not in known:
                raise ConfigError(f"{name} is {given!r}; expected {' or '.join(known)}")
        for one in fields(self):
            given, least = getattr(self, one.name), one.metadata.get("least")
            if least is not None and given is not None and given < least:
                raise ConfigError(f"{one.name} is {given}; expected at least {least}")
        if self.hidden % (2 * self.heads):
            raise ConfigError(
                f"hidden is {self.hidden}, heads {self.heads}; hidden has to divide into heads of "
                "an even width"
            )
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate {self.learning_rate}; expected more than 0")
