"""Run one command to its end and say what it cost."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one command cost.

    `wall_s`, `user_s`, `system_s`: seconds. `peak_bytes`: largest resident set of the command or
    of any one of its children; pages of mapped files count. `read_bytes`, `written_bytes`: bytes
    moved between the block device and the page cache on its behalf, so a warm read is 0.
    """

    wall_s: float
    user_s: float
    system_s: float
    peak_bytes: int
    read_bytes: int
    written_bytes: int


class CommandFailed(RuntimeError):
    """A benchmarked command did not exit with 0; carries the end of its output."""


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, log: Path
) -> Cost:
    """Run `command` in `cwd` with its output going to `log`.

    `env` is added to this process's environment. The resident peak is `ru_maxrss` of wait4, the
    number that `/usr/bin/time -v` prints.

    Raises:
        CommandFailed: the exit status is not 0.
    """
    os.sync()  # what earlier commands left unwritten must not slow this one down
    with log.open("wb") as output:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(command), cwd=cwd, env={**os.environ, **(env or {})}, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise CommandFailed(f"{' '.join(command)}: exit status {child.returncode}\n{tail}")
    return Cost(
        wall_s=wall,
        user_s=usage.ru_utime,
        system_s=usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        read_bytes=usage.ru_inblock * 512,
        written_bytes=usage.ru_oublock * 512,
    )


def drop_caches() -> None:
    """Empty the page cache, so that the next command reads from the disk; needs root and Linux."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def machine() -> dict[str, str | int | float]:
    """What a reader needs to place the numbers; no host name and no path."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Short hash of the checkout being measured, with `+` when its code is modified."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True)
        return done.stdout.strip()

    dirty = git("status", "--porcelain", "--", "../zoo", "../plugins", "../cli")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if dirty else "")


def zoo_command() -> list[str]:
    """The `zoo` installed beside the Python that runs the benchmark."""
    command = Path(sys.executable).parent / "zoo"
    if not command.exists():
        raise SystemExit(
            "There is no `zoo` command beside this Python: install the project, then run the "
            "benchmark with that environment's python (`pip install -e .`)."
        )
    return [str(command)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
