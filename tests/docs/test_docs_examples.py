"""What the documentation shows is what happens: its Python runs, its transcripts repeat."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path

import pytest
from docs_pages import DOCS, ROOT, Page, all_pages, commands

TRANSCRIPTS = [Page(ROOT / "README.md"), Page(DOCS / "how-to/audit-a-merge.md")]
"""Pages whose `console` blocks are run from first to last in an empty directory that holds
`examples`, their output compared; `...` stands for anything."""


WRITTEN = [p for p in all_pages() if "reference" not in p.path.parts]
"""Pages by hand; the generated ones show signatures as Python."""


@pytest.mark.parametrize("page", WRITTEN, ids=str)
def test_every_python_block_is_python(page: Page) -> None:
    for block in page.blocks("python"):
        compile("\n" * (block.line - 1) + block.text, str(page), "exec")


CHECK_ALL = """
from zoo.testing import check_method

for method in (median, clipped_sum, loud_mean):
    failed = [outcome for outcome in check_method(method) if outcome.status == "failed"]
    assert not failed, (method.name, failed)
"""


def test_the_how_to_on_methods_works_as_written(tmp_path: Path) -> None:
    page = Page(DOCS / "how-to/write-a-method.md")
    plugin, *later = [block.text for block in page.blocks("python")]
    directory = tmp_path / "my-plugins"
    directory.mkdir()
    (directory / "median.py").write_text(plugin, encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text("\n".join([plugin, *later, CHECK_ALL]), encoding="utf-8")

    shown = run("zoo --plugins-dir my-plugins methods median", tmp_path)
    checked = run("zoo --plugins-dir my-plugins plugins check median", tmp_path)
    ran = run(f"{sys.executable} script.py", tmp_path)

    assert (shown.returncode, checked.returncode, ran.returncode) == (0, 0, 0), "\n".join(
        done.stdout + done.stderr for done in (shown, checked, ran)
    )


@pytest.mark.parametrize("page", TRANSCRIPTS, ids=str)
def test_transcripts_repeat(page: Page, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    same = doctest.OutputChecker().check_output
    for block in page.blocks("console"):
        for command, expected in commands(block):
            if not command.startswith("zoo"):
                continue
            done = run(command, tmp_path)

            assert done.returncode == 0, f"{page}:{block.line}: {command}\n{done.stderr}"
            got = done.stdout.replace("\t", "  ")
            assert not expected or same(expected, got, doctest.ELLIPSIS), (
                f"{page}:{block.line}: {command}\nshown:\n{expected}\ngot:\n{got}"
            )


def run(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """A shell command as a reader would type it, with this environment's programs first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={**os.environ, "PATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
    )
