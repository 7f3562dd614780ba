"""Pretraining of encoders of records on one's own MEDS data, for those without the gated
weights.
"""

from concordant.pretrain.options import PretrainOptions
from concordant.pretrain.run import Pretrained, pretrain

__all__ = ["PretrainOptions", "Pretrained", "pretrain"]
