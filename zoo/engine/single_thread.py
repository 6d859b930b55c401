"""Torch on one thread while values must not depend on how many threads there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Torch's own threads would split reductions by their number; ours are the parallelism."""
    import torch

    global _running, _threads_before
    with _lock:
        if _running == 0:
            _threads_before = torch.get_num_threads()
            torch.set_num_threads(1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                torch.set_num_threads(_threads_before)


# torch's number of threads belongs to the process: the last one to end restores it.
_lock = threading.Lock()
_running = 0
_threads_before = 1
