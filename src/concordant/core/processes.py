"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Let this worker process end as soon as its parent is gone, killed without a word perhaps; what it works on, a new run does again.

    A parent that ends in an orderly way stops its workers itself. Called once, in the worker; elsewhere it does nothing.
    """
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_wait_and_end, name="end with parent", daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
