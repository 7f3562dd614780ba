"""Pretraining of record encoders on one's own MEDS data, for those without gated weights."""

from concordant.pretrain.options import PretrainOptions
from concordant.pretrain.run import Pretrained, pretrain

__all__ = ["PretrainOptions", "Pretrained", "pretrain"]
