"""Survival heads; importing this package registers them all."""

from concordant.heads.base import HEADS, Head
from concordant.heads.cox import Cox

__all__ = ["HEADS", "Cox", "Head"]
