"""The documentation as data: its pages, their code blocks, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    language: str
    text: str
    line: int
    """Line of its first row in the page, from 1."""


@dataclass(frozen=True)
class Page:
    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The page without its code blocks."""
        return re.sub(r"^```.*?^```", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def blocks(self, language: str) -> list[Block]:
        found = re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)
        return [
            Block(m[1], m[2], self.text.count("\n", 0, m.start(2)) + 1)
            for m in found
            if m[1] == language
        ]

    def links(self) -> list[str]:
        """Targets of links and pictures, code spans left out."""
        return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", self.prose))

    def anchors(self) -> set[str]:
        """What a link may put after `#`: GitHub's spelling of each heading."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        words = (re.sub(r"[^\w\- ]", "", h.lower()).strip() for h in headings)
        return {w.replace(" ", "-") for w in words}

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))


def all_pages() -> list[Page]:
    """The README, the changelog and everything under `docs/`."""
    found = [p for p in DOCS.rglob("*.md") if "_build" not in p.parts]
    return [Page(ROOT / "README.md"), Page(ROOT / "CHANGELOG.md"), *map(Page, sorted(found))]


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, the output shown) of a `console` block; `\\` continues a command."""
    found: list[tuple[str, str]] = []
    continued = False
    for line in block.text.splitlines():
        if continued:
            command, output = found[-1]
            found[-1] = (f"{command}\n{line}", output)
        elif line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
        continued = continued or line.startswith("$ ")
        continued = continued and line.endswith("\\")
    return found
