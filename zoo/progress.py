"""How long work tells how far it is. The library reports; only the command line draws."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told about one long piece of work at a time. `advance` may be called from any thread."""

    def start(self, total_bytes: int, label: str) -> None:
        """Work of `total_bytes` begins; 0 when the amount is not known beforehand."""

    def advance(self, nbytes: int) -> None:
        """Another `nbytes` are done: read, hashed, merged or written, as the label says."""

    def done(self) -> None:
        """The work ended, well or not. A new `start` may follow."""


class NoProgress:
    """Listens to nothing; what every long function uses when it is given no progress."""

    def start(self, total_bytes: int, label: str) -> None:
        pass

    def advance(self, nbytes: int) -> None:
        pass

    def done(self) -> None:
        pass
