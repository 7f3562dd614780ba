"""CLMBR, a foundation model of health records: checkpoints, network and encoder, without femr."""

from concordant.encoders.clmbr.checkpoint import Checkpoint, load_clmbr, read_checkpoint
from concordant.encoders.clmbr.encoder import Clmbr
from concordant.encoders.clmbr.network import ClmbrNetwork

__all__ = ["Checkpoint", "Clmbr", "ClmbrNetwork", "load_clmbr", "read_checkpoint"]
