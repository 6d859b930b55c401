"""The pictures of methods: there, well formed, and legible."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

import pytest
from docs_pages import DOCS

METHODS = DOCS / "reference/methods"
PICTURES = sorted(METHODS.glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def words(picture: Path) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of each text, with letters as wide as the widest fonts make them."""
    found = []
    for text in ElementTree.parse(picture).iter(f"{SVG}text"):
        width = 7.5 * len(text.text or "")
        x, y = float(text.get("x", 0)), float(text.get("y", 0))
        left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "start")]
        found.append((left, y - 12, left + width, y + 4))
    return found


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.stem)
def test_no_words_of_a_picture_overlap_or_leave_it(picture: Path) -> None:
    page = ElementTree.parse(picture).getroot()
    width, height = float(page.get("width", 0)), float(page.get("height", 0))
    boxes = words(picture)

    assert [pair for pair in combinations(boxes, 2) if overlap(*pair)] == []
    assert [b for b in boxes if b[0] < 0 or b[1] < 0 or b[2] > width or b[3] > height] == []


def selectors(style: str) -> set[str]:
    return set(re.findall(r"^ +(\S+) {", style, re.MULTILINE))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.stem)
def test_a_picture_has_colours_for_dark_pages_for_all_that_it_has_for_light_ones(
    picture: Path,
) -> None:
    style = next(ElementTree.parse(picture).iter(f"{SVG}style")).text or ""
    light, dark = style.split("@media (prefers-color-scheme: dark)")

    assert selectors(light) == selectors(dark)


def test_a_page_shows_the_picture_beside_it() -> None:
    unshown = [
        p.stem
        for p in PICTURES
        if f"({p.name})" not in p.with_suffix(".md").read_text(encoding="utf-8")
    ]

    assert PICTURES
    assert unshown == []


def test_a_method_nobody_has_heard_of_gets_a_page_and_the_same_picture_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import zoo

    monkeypatch.syspath_prepend(str(DOCS))
    from generator.methods import method_page
    from generator.pictures import picture

    @zoo.method("halved", version="1.0.0")
    def halved(deltas: Any, *, factor: Annotated[float, "of each delta"]) -> Any:
        """Add a part of the first delta.

            merged = base + factor * delta_0

        When: never,
        really.

        Cost: none.
        """
        return deltas[0].mul_(factor)

    shown = picture(halved)
    assert shown is not None
    page = method_page(halved, shown)

    assert shown == picture(halved)
    assert "with `factor=0.5`" in shown.caption
    assert "(halved.svg)" in page
    assert "## When to use it\n\nNever, really.\n" in page
    assert "| `factor` | number | required | of each delta |" in page
