"""MOTOR (arXiv:2301.03150), a foundation model of health records that was trained on times to
events.

Its network is CLMBR's; its head, a piecewise exponential hazard per code, is not needed to encode.
"""

from __future__ import annotations

from concordant.encoders.base import ENCODERS
from concordant.encoders.clmbr.config import MOTOR
from concordant.encoders.clmbr.encoder import RecordTransformer


@ENCODERS.register("motor")
class Motor(RecordTransformer):
    """Encode a record with MOTOR: tokens of the last events, pooled the very last.

    Options are those of `RecordTransformer`; weights on the hub:
    `hf:StanfordShahLab/motor-t-base@REVISION` (gated, CC-BY-NC-4.0).
    """

    task = MOTOR
