"""MOTOR (arXiv:2301.03150), a foundation model of health records that was trained on times to events.

Its network is CLMBR's; its head, a piecewise exponential hazard per code, is not needed to encode.
"""

from __future__ import annotations

from pathlib import Path

from concordant.encoders.base import ENCODERS
from concordant.encoders.clmbr.config import MOTOR
from concordant.encoders.clmbr.encoder import RecordTransformer
from concordant.encoders.network import Device
from concordant.encoders.weights import WeightsOption


@ENCODERS.register("motor")
class Motor(RecordTransformer):
    """Encode a record with MOTOR: a token per event, the last of them, and the very last as the pooled vector.

    Args:
        weights: The folder with `config.json`, `dictionary.msgpack` and `model.safetensors`: released ones, those of
            `concordant pretrain motor`, or `hf:StanfordShahLab/motor-t-base@REVISION` (gated, CC-BY-NC-4.0).
        max_tokens: Hidden states kept, the last of the record.
        batch_tokens: Events that go through the network together.
        device: "auto" takes a GPU where there is one.
        ontology: Codes and their parents, for a hierarchical vocabulary; a parquet file with the columns code and parent_codes.
        force: Encode even where the vocabulary has less than a tenth of the cohort's events.
    """

    task = MOTOR

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
        super().__init__(weights, max_tokens, batch_tokens, device, ontology, force)
