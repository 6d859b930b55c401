"""Links lead somewhere."""

from __future__ import annotations

import pytest
from docs_pages import ROOT, Page, all_pages


@pytest.mark.parametrize("page", all_pages(), ids=str)
def test_every_link_within_the_project_leads_to_a_file_and_a_heading(page: Page) -> None:
    broken = []
    for link in page.links():
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file).resolve() if file else page.path
        inside = target.exists() and target.is_relative_to(ROOT)
        if not inside or (anchor and anchor not in Page(target).anchors()):
            broken.append(link)

    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    def listed(page: Page) -> set[Page]:
        found = {page}
        for block in page.blocks("{toctree}"):
            for name in block.text.splitlines():
                if name and not name.startswith(":"):
                    found |= listed(Page((page.path.parent / f"{name}.md").resolve()))
        return found

    pages = {p for p in all_pages() if "docs" in p.path.relative_to(ROOT).parts}
    index = next(p for p in pages if str(p) == "docs/index.md")

    assert pages - listed(index) == set()
