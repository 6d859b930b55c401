"""A process that has imported everything, and forks a child for each piece of work.

So a killed process costs milliseconds, not the seconds that importing torch takes. It talks JSON
lines: a request names Python source to run in a child and when to kill it; the answer says how the
child ended. Run as a script it is the server; `Warm` is the client.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REHEARSAL = """
    from pathlib import Path
    import torch
    from safetensors.torch import save_file

    source = Path(scratch, "source")
    source.mkdir()
    (source / "config.json").write_text("{}")
    save_file({"w": torch.ones(2, 2)}, source / "model.safetensors", {"format": "pt"})
    with open_zoo(f"{scratch}/registry.db") as registry:
        for name in ("base", "a", "b"):
            registry.register(source, name=name)
        registry.alias("a", "best")
        for method in ("ties", "linear"):
            base = {"base": "base"} if method == "ties" else {}
            registry.merge(name="m", out=f"{scratch}/{method}", method=method,
                           experts=["a", "b"], **base)
        registry.merge(out=f"{scratch}/out", method="linear", experts=["a", "b"])
        registry.path("m")
        registry.verify("m", replay=True)
        registry.lineage("m")
        registry.diff("a", "m")
        registry.remove("m@1")
        registry.gc()
        assert registry.fsck().ok
"""
"""Done once before the first fork, so that a child finds every lazy import done, wherever it is."""


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    killed: bool
    seconds: float
    value: Any
    """What the work assigned to `result`, through JSON."""
    error: str
    """Traceback, or empty."""


class Warm:
    """The client's end."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(self, source: str, /, *, kill_after: float | None = None, **given: Any) -> Ending:
        """Do some work in a child and wait for it; a failure of the work fails the test.

        Args:
            kill_after: seconds until SIGKILL; None lets it end.
            given: its globals.
        """
        return self.run_all([source], kill_after=kill_after, **given)[0]

    def run_all(
        self, works: Sequence[str], /, *, kill_after: float | None = None, **given: Any
    ) -> list[Ending]:
        """Do several things at once, each in a child of its own."""
        request = {
            "works": [textwrap.dedent(w) for w in works],
            "given": given,
            "kill_after": kill_after,
        }
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        endings = [Ending(**e) for e in json.loads(self._server.stdout.readline())]
        for ending in endings:
            assert not ending.error, ending.error
        return endings


@contextmanager
def started(preload: Path | None = None) -> Iterator[Warm]:
    """A server for as long as the block lasts.

    Args:
        preload: a shared library that stands before the C library in it.
    """
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **({"LD_PRELOAD": str(preload)} if preload else {})},
    )
    try:
        yield Warm(server)
    finally:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()
        server.stdout.close()  # type: ignore[union-attr]


def serve() -> None:
    import torch

    import zoo
    from zoo.plugins import load_plugins

    torch.set_num_threads(1)
    plugins = load_plugins()

    def open_zoo(path: str, **options: Any) -> zoo.Registry:
        return zoo.open(path, **{"plugins": plugins, **options})

    with tempfile.TemporaryDirectory() as scratch:
        exec(textwrap.dedent(REHEARSAL), {"open_zoo": open_zoo, "scratch": scratch})
        for line in sys.stdin:
            endings = _work(json.loads(line), Path(scratch), {"open_zoo": open_zoo})
            sys.stdout.write(json.dumps(endings) + "\n")
            sys.stdout.flush()


def _work(request: dict[str, Any], scratch: Path, tools: dict[str, Any]) -> list[dict[str, Any]]:
    names = {**tools, **request["given"]}
    began = time.monotonic()
    children = [
        (_forked(work, names, scratch / f"{i}.value", scratch / f"{i}.error"), i)
        for i, work in enumerate(request["works"])
    ]
    endings = []
    for pid, i in children:
        killed = _wait(pid, request["kill_after"])
        value, error = scratch / f"{i}.value", scratch / f"{i}.error"
        endings.append(
            {
                "killed": killed,
                "seconds": time.monotonic() - began,
                "value": json.loads(value.read_text()) if value.exists() and not killed else None,
                "error": error.read_text() if error.exists() else "",
            }
        )
    return endings


def _forked(source: str, names: dict[str, Any], value: Path, error: Path) -> int:
    value.unlink(missing_ok=True)
    error.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout is the protocol's
    try:
        exec(compile(source, "<work>", "exec"), names)
        value.write_text(json.dumps(names.get("result")))
    except BaseException:
        import traceback

        error.write_text(traceback.format_exc())
    finally:
        os._exit(0)


def _wait(pid: int, kill_after: float | None) -> bool:
    """Wait for a child, or kill it when its time is up; whether it died of a signal."""
    until = None if kill_after is None else time.monotonic() + kill_after
    while until is not None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.WIFSIGNALED(status)
        if time.monotonic() >= until:
            os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    serve()
