"""Licences as data, and what a merge is under; each case as the licences' texts have it."""

from __future__ import annotations

import pytest

from zoo.licences import LICENCES, combined, known


def test_every_licence_says_where_its_text_is_and_what_it_is() -> None:
    for licence in LICENCES.values():
        assert licence.url.startswith("https://")
        assert licence.id == licence.id.lower()
        kinds = (
            licence.permissive,
            licence.same_terms,
            licence.non_commercial or licence.no_derivatives or licence.use_restrictions,
        )
        assert any(kinds) and not (licence.permissive and any(kinds[1:]))


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("MIT", "mit"),
        ("Apache-2.0", "apache-2.0"),
        (" apache 2.0 ", "apache-2.0"),
        ("GPL-3.0-or-later", "gpl-3.0-or-later"),
        ("cc0", "cc0-1.0"),
        ("Llama3.1", "llama3.1"),
    ],
)
def test_a_licence_is_found_however_it_is_written(name: str, id: str) -> None:
    found = known(name)

    assert found is not None and id == found.id


@pytest.mark.parametrize("name", ["other", "unknown", "cc", "", "my-licence", None])
def test_nothing_is_known_of_what_says_nothing(name: str | None) -> None:
    assert known(name) is None


@pytest.mark.parametrize(
    ("parents", "license"),
    [
        (["mit", "mit"], "mit"),
        (["MIT", "mit"], "MIT"),
        (["mit", "apache-2.0"], "apache-2.0"),
        (["cc0-1.0", "mit"], "mit"),
        (["apache-2.0", "cc-by-4.0"], "cc-by-4.0"),
        (["mit", "gpl-3.0"], "gpl-3.0"),
        (["apache-2.0", "gpl-3.0"], "gpl-3.0"),
        (["gpl-3.0", "agpl-3.0"], "agpl-3.0"),
        (["lgpl-3.0", "gpl-3.0"], "gpl-3.0"),
        (["gpl-2.0-or-later", "gpl-3.0"], "gpl-3.0"),
        (["mpl-2.0", "gpl-3.0"], "gpl-3.0"),
        (["cc-by-sa-4.0", "gpl-3.0"], "gpl-3.0"),
        (["cc-by-4.0", "cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["cc-by-nc-4.0", "cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["apache-2.0", "cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["llama3", "mit"], "llama3"),
        (["gemma", "gemma"], "gemma"),
        (["strange", "strange"], "strange"),
    ],
)
def test_one_licence_covers_a_merge_of_these(parents: list[str], license: str) -> None:
    assert license == combined(parents).license


@pytest.mark.parametrize(
    ("parents", "reason"),
    [
        (["llama3", "gemma"], "the terms of `gemma` and `llama3` apply together"),
        (["llama2", "llama3"], "the terms of `llama2` and `llama3` apply together"),
        (
            ["gpl-3.0", "llama3"],
            "`gpl-3.0` wants the whole under its own terms, and `llama3` adds others",
        ),
        (
            ["cc-by-sa-4.0", "cc-by-nc-4.0"],
            "`cc-by-sa-4.0` wants the whole under its own terms, and `cc-by-nc-4.0` adds others",
        ),
        (
            ["apache-2.0", "gpl-2.0"],
            "`gpl-2.0` wants the whole under its own terms, and `apache-2.0` adds others",
        ),
        (["cc-by-nd-4.0"] * 2, "`cc-by-nd-4.0` allows nothing made from it to be shared"),
        (["mit", "other"], "what `other` asks for is not known"),
        (["other", "other"], "what `other` asks for is not known"),
        (["mit", None], "not all parents have a licence"),
        ([None], "not all parents have a licence"),
        ([], "not all parents have a licence"),
    ],
)
def test_no_licence_covers_a_merge_of_these_and_the_reason_is_said(
    parents: list[str | None], reason: str
) -> None:
    found = combined(parents)

    assert found.license is None and reason == found.reason


def test_what_is_asked_is_said_once_for_all_who_ask_it() -> None:
    assert (
        "keep the notices and the text of `apache-2.0` and `llama3.1`",
        "pass on the terms of use of `llama3.1`",
        "begin its name with `Llama`, says `llama3.1`",
    ) == combined(["llama3.1", "apache-2.0"]).obligations
    assert () == combined(["cc0-1.0"]).obligations
