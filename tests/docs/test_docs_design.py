"""The design page states the numbers that the code has."""

from __future__ import annotations

from docs_pages import DOCS

from zoo import contract, names
from zoo.catalog import database
from zoo.checkpoints import safetensors_header
from zoo.recipes import recipe


def test_the_design_page_states_the_numbers_of_the_code() -> None:
    page = " ".join((DOCS / "explanation/design.md").read_text(encoding="utf-8").split())
    stated = [
        f"chunks of {contract.CHUNK:,} elements",
        f"`max_norm_drift` ({recipe.MAX_NORM_DRIFT:.0f})",
        f"at most {safetensors_header.LONGEST_HEADER:,}",
        f"at most {safetensors_header.MOST_TENSORS:,} tensors",
        f"at most {safetensors_header.MOST_DIMENSIONS} dimensions",
        f"over {safetensors_header.SHARD_BYTES // 10**9} GB",
        f"at most {names.LONGEST_PATH} bytes",
        f"at most {names.LONGEST_NAME} characters",
        f"0x{database.APPLICATION_ID:X}",
        f"up to {database.BUSY_SECONDS} s",
    ]

    assert [text for text in stated if text not in page] == []


def test_the_glossary_states_the_length_of_a_chunk() -> None:
    page = (DOCS / "explanation/glossary.md").read_text(encoding="utf-8")

    assert f"{contract.CHUNK:,}" in page
