"""Encoders of scans and records; importing this package registers them all."""

from __future__ import annotations

from concordant.encoders import clmbr as clmbr
from concordant.encoders import code_counts as code_counts
from concordant.encoders import colipri as colipri
from concordant.encoders import ctfm as ctfm
from concordant.encoders import label_volume as label_volume
from concordant.encoders import merlin as merlin
from concordant.encoders import motor as motor
from concordant.encoders import tiny_ct as tiny_ct
from concordant.encoders import volume_features as volume_features
