"""How a measured value is kept: under which names, with which protocol.

A value that was measured on a task is kept under the split

    TASK              on the split that the metric is meant for (`test` for scores)
    TASK:SPLIT        on another one
    TASK/PART         for a part: a class, a layer, a noise level; likewise TASK:SPLIT/PART

and, where the task is the model's own, under its bare name (or PART) as well: `accuracy > 0.9` asks
each expert about its own task, `metric.'accuracy'.'mnist' > 0.9` asks all about one. A value of the
weights alone has no task, only parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version as version_of
from typing import Any

from zoo.environment import environment
from zoo.records import MetricValue
from zoo.sample import Sample
from zoo.subject import Subject


def splits(own: bool, sample: Sample | None, usual: str, part: str) -> list[str]:
    """The splits a value is kept under.

    Args:
        own: whether the sample's task is the one that the model was made for.
        sample: None for a metric of weights.
        usual: the split of a task that the metric is meant for.
        part: of the model or the score; empty for the whole.
    """
    if sample is None:
        return [part]
    is_usual = sample.split == usual
    place = sample.task.name + ("" if is_usual else f":{sample.split}")
    found = [place + (f"/{part}" if part else "")]
    return [part, *found] if own and is_usual else found


def protocol(
    name: str, version: str, parameters: Mapping[str, Any], sample: Sample | None
) -> dict[str, Any]:
    """All that decides a value besides the models: metric, parameters, examples."""
    return {
        "metric": name,
        "version": version,
        "parameters": dict(parameters),
        **(sample.protocol if sample else {}),
    }


def recorded(
    values: Iterable[MetricValue],
    subjects: Sequence[Subject],
    sample: Sample | None,
    usual: str,
    rules: Mapping[str, Any],
) -> list[MetricValue]:
    """The values as the registry keeps them: splits, data set, protocol, environment and tool.

    Args:
        rules: from `protocol`.
    """
    own = sample is not None and all(
        s.version is not None and s.version.task == sample.task.name for s in subjects
    )
    device = sample.device if sample else "cpu"
    around = environment(1, device, 0)
    tool = f"zoo-registry {version_of('zoo-registry')}"
    return [
        replace(
            value,
            split=split,
            dataset=sample.task.name if sample else "",
            protocol={**rules, **value.protocol},
            environment={k: around[k] for k in ("zoo", "torch", "platform", "device")},
            tool=tool,
        )
        for value in values
        for split in splits(own, sample, usual, value.split)
    ]
