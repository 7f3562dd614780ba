"""Encoders of scans and records; importing this package registers them all."""

from __future__ import annotations

from concordant.encoders import code_counts as code_counts
from concordant.encoders import label_volume as label_volume
from concordant.encoders import volume_features as volume_features
