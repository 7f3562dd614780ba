"""Keeps the memory of a training step for the next one, which needs the same again."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's `mallopt`."""


@cache
def keep_freed_memory() -> None:
    """Let freed memory stay with this process, half a gigabyte at most; once per process.

    glibc returns every large array to the system at once, and each step pays for getting it back
    page by page: a third of the time of contrastive fusion on 2,500 samples. Other C libraries
    have no such option and are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 28)
    mallopt(_TRIM_THRESHOLD, 1 << 29)
