"""Runs jobs of one registry in this process, or in several that each keep torch on one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.errors import ZooError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from zoo.grow.member import Grown
    from zoo.registry import Registry

Job = Callable[..., "Grown"]
"""A function of a module, called with the registry and plain arguments."""
Run = Callable[[Job, Sequence[tuple[Any, ...]]], Iterator["Grown"]]
"""(job, arguments of each call) -> what the calls give, as they end."""


@contextmanager
def workers(registry: Registry, jobs: int) -> Iterator[Run]:
    """Where jobs run: here for one, else in `jobs` processes, each with the registry open.

    The processes are spawned: a script that comes here must have its work under
    `if __name__ == "__main__":`. They end at once when this process ends, or the block is left by
    an exception.
    """
    from zoo.engine.single_thread import single_threaded_torch

    if jobs == 1:
        with single_threaded_torch():
            yield lambda job, calls: (job(registry, *call) for call in calls)
        return
    import multiprocessing

    spawn = multiprocessing.get_context("spawn")
    # Nothing is ever sent: who holds the other end sees it close, whatever closed it.
    ending, ours = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=_start, initargs=(registry.opening, ending)
    )

    def run(job: Job, calls: Sequence[tuple[Any, ...]]) -> Iterator[Grown]:
        futures = [pool.submit(_call, job, call) for call in calls]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise ZooError(
                "A process that trained models was ended from outside.",
                "Perhaps the memory did not suffice.",
                "Run it again with fewer --jobs; what is registered stays.",
            ) from error

    try:
        yield run
    except BaseException:
        ours.close()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    ours.close()


_registry: Registry | None = None


def _start(opening: dict[str, Any], ending: Connection) -> None:
    """In a new process: open the registry, and end with the process that made us."""
    import signal
    import warnings

    import torch

    import zoo
    from zoo.plugins import BrokenPluginWarning

    global _registry

    def end_with_it() -> None:
        ending.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
    # Ctrl-C reaches all of a terminal's processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whoever started us was told already.
    warnings.simplefilter("ignore", BrokenPluginWarning)
    torch.set_num_threads(1)
    _registry = zoo.open(**opening, create=False)


def _call(job: Job, arguments: tuple[Any, ...]) -> Grown:
    assert _registry is not None
    return job(_registry, *arguments)
