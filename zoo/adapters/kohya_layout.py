"""Files of kohya's scripts and of LyCORIS."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.adapters.change import Change
from zoo.checkpoint import Checkpoint, TensorInfo


def kohya_changes(
    checkpoint: Checkpoint, base: Mapping[str, TensorInfo]
) -> tuple[dict[str, Change], list[str]]:
    raise NotImplementedError
