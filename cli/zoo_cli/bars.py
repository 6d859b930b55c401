"""Progress bars on stderr: bytes with their speed, or a count of something."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bars:
    """Draws one bar at a time and wipes it when the work is done.

    Args:
        unit: what is counted, such as `examples`; bytes without it.
    """

    def __init__(self, unit: str = "") -> None:
        self._unit = unit
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def start(self, total_bytes: int, label: str) -> None:
        self.done()
        amount: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
        if self._unit and not total_bytes:
            amount = ()  # nothing of the kind is read
        elif self._unit:
            amount = (MofNCompleteColumn(), TextColumn(self._unit))
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *amount,
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(label, total=total_bytes or None)
        self._progress.start()

    def advance(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, nbytes)

    def done(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
