"""Commands as a reader types them: at a terminal, or without a process of their own."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

from click.testing import CliRunner


def in_process(command: str) -> tuple[int, str]:
    """What `typed` gives of a command of zoo, without the seconds that it takes to load torch."""
    from zoo_cli.main import cli

    result = CliRunner().invoke(cli, shlex.split(command)[1:], prog_name="zoo")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", result.stdout).splitlines()
    return result.exit_code, "".join(line.rstrip() + "\n" for line in lines) + result.stderr


def typed(command: str, directory: Path | None = None) -> tuple[int, str]:
    """Exit code of a shell command, and what a reader would see on a plain terminal.

    stdout is a terminal 140 columns wide, colours removed; what goes to stderr comes after it.
    """
    ours, theirs = pty.openpty()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    surroundings = {"PATH": path, "COLUMNS": "140", "TERM": "xterm"}
    seen: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, seen))
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=directory,
        env={**os.environ, **surroundings},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        reader.start()
        assert process.stderr is not None
        complaints = process.stderr.read()
        reader.join()
    os.close(ours)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", b"".join(seen).decode()).splitlines()
    shown = "".join(line.rstrip() + "\n" for line in lines)
    return process.returncode, shown + complaints


def _read_all(descriptor: int, seen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:  # Linux says EIO when the other end has closed
            return
        if not data:
            return
        seen.append(data)
