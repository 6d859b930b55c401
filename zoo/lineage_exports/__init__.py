"""Lineage for other tools: one neutral graph, and one file for each format that it is written in.

    registry -> graph.collect -> openlineage | cyclonedx | spdx -> text

What the registry did not record is not made up, and paths of the machine are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zoo.lineage_exports import cyclonedx, openlineage, spdx
from zoo.lineage_exports.graph import Graph

EXPORTERS: Mapping[str, Callable[[Graph], str]] = {
    "openlineage": openlineage.export,
    "cyclonedx": cyclonedx.export,
    "spdx": spdx.export,
}
