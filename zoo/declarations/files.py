"""The small files and the weights' own metadata of a checkpoint, read with bounds."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from zoo.checkpoint import Opened
from zoo.declarations.front_matter import split
from zoo.declarations.plain import LARGEST, json_mapping
from zoo.errors import ZooError


class Files:
    """What readers of declarations look at. A file that is absent, or too large, says nothing."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def text(self, path: str) -> str:
        """A small text file beside the weights; empty where there is none."""
        found = self._opened.auxiliary.get(path)
        try:
            if found is None or found.stat().st_size > 4 * LARGEST:
                return ""
            return found.read_text("utf-8", errors="replace")
        except OSError:
            return ""

    def json(self, path: str) -> dict[str, Any]:
        return json_mapping(self.text(path))

    @cached_property
    def card(self) -> tuple[dict[str, Any], str]:
        """Front matter and body of the model card."""
        return split(self.text("README.md"))

    @cached_property
    def metadata(self) -> dict[str, str]:
        """`__metadata__` of the weights: that of the first file, where there are several."""
        from zoo.checkpoints.safetensors_header import read_header

        for name in sorted(self._opened.weight_files):
            if name.endswith(".safetensors"):
                try:
                    return read_header(self._opened.weight_files[name]).metadata
                except ZooError:
                    return {}
        return {}
