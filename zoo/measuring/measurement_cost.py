"""What a measurement will cost, from one batch that is timed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zoo.engine.single_thread import single_threaded_torch
from zoo.errors import ZooError
from zoo.measuring.subjects import subjects

if TYPE_CHECKING:
    from zoo.measuring.measurement import Measurement
    from zoo.registry import Registry


class Costs:
    """Predicts seconds; models of one architecture and size are timed once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._seconds: dict[Sequence[object], float] = {}

    def seconds(self, asked: Measurement) -> float | None:
        """At most about so many seconds; None where nothing tells: a metric of weights, a task that
        does not know its size, a model that does not take its inputs.

        Raises:
            ZooError: the model cannot be built, or the data not be read.
        """
        if asked.sample is None or asked.examples is None or not asked.passes:
            return None
        version = asked.versions[0]
        sample = asked.sample
        key = (version.architecture, version.parameters, sample.task.name, sample.batch)
        if key not in self._seconds:
            try:
                self._seconds[key] = self._one_batch(asked)
            except ZooError:
                raise
            except Exception:  # the measurement will say what is wrong
                return None
        batches = math.ceil(asked.examples / sample.batch)
        return self._seconds[key] * batches * asked.passes

    def _one_batch(self, asked: Measurement) -> float:
        """Seconds of one batch, forward and backward; the fastest of three."""
        assert asked.sample is not None
        taken = []
        with ExitStack() as stack, single_threaded_torch():
            (model,) = subjects(self._registry, asked.refs[:1], stack, bases=False)
            module = model.module(asked.sample.device)
            x, y = next(iter(asked.sample.batches()))
            for _ in range(3):
                began = time.perf_counter()
                asked.sample.loss(module(x), y).backward()  # type: ignore[no-untyped-call]
                taken.append(time.perf_counter() - began)
        return min(taken)
