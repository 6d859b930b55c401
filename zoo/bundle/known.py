"""Which versions of a bundle are in a zoo already, and which entries the others belong to."""

from __future__ import annotations

import json
from typing import Literal

from sqlalchemy import Connection, select

from zoo.bundle.contents import FROM, Line
from zoo.bundle.unpack import Bundle
from zoo.catalog import tables as t
from zoo.errors import RegistryError
from zoo.names import check_entry_name

Conflict = Literal["append", "rename"]
"""What to do with an entry whose name another entry has here: its versions follow that one's, or
get the name with the first digits of their zoo's id."""


class Names:
    """Which versions of the bundle are here, and which entry each of the others goes to."""

    def __init__(self, connection: Connection, bundle: Bundle, conflict: Conflict | None) -> None:
        self.known = known_versions(connection, bundle)
        """Reference in the bundle -> (row id, name here)."""
        taken = set(connection.scalars(select(t.entries.c.name)))
        self.entry: dict[str, str] = {}
        """Name in the bundle -> here."""
        torn: list[str] = []
        for line in bundle.of("version"):
            name = check_entry_name(line["name"])
            if (found := self.known.get(ref_of(line))) is not None:
                self.entry[name] = found[1]
        for name in dict.fromkeys(line["name"] for line in bundle.of("version")):
            if name in self.entry:
                continue
            if name not in taken or conflict == "append":
                self.entry[name] = name
            elif conflict == "rename":
                self.entry[name] = f"{name}-{bundle.zoo[:8]}"
            else:
                torn.append(name)
        if torn:
            listed = ", ".join(f"`{n}`" for n in torn[:8])
            more = f" and {len(torn) - 8} more" if len(torn) > 8 else ""
            raise RegistryError(
                f"{len(torn)} of the bundle's entries cannot keep "
                f"{'its name' if len(torn) == 1 else 'their names'}, which others have here: "
                f"{listed}{more}.",
                "Their versions have nothing in common, so they are other lines of work.",
                f"`--on-conflict rename` calls them `{torn[0]}-{bundle.zoo[:8]}`; `--on-conflict "
                "append` puts their versions after those that are here.",
                names=torn,
            )


def known_versions(connection: Connection, bundle: Bundle) -> dict[str, tuple[int, str]]:
    """Versions of the bundle that are here, by their reference in it."""
    v = t.versions.c
    own = connection.scalar(select(t.zoo.c.uuid))
    here: dict[tuple[str, str], tuple[int, str]] = {}
    query = select(v.id, t.entries.c.name, v.number, v.notes).join(t.entries)
    for id_, name, number, notes in connection.execute(query):
        made = json.loads(notes).get(FROM) if f'"{FROM}"' in notes else None
        if not isinstance(made, dict):
            made = {"zoo": own, "ref": f"{name}@{number}"}
        here[str(made.get("zoo")), str(made.get("ref"))] = id_, name
    found = {}
    for line in bundle.of("version"):
        made = origin(line, bundle)
        if (place := here.get((made["zoo"], made["ref"]))) is not None:
            found[ref_of(line)] = place
    return found


def origin(line: Line, bundle: Bundle) -> dict[str, str]:
    """The zoo and the reference that a version was made under."""
    said = line["notes"].get(FROM)
    if isinstance(said, dict) and {"zoo", "ref"} == said.keys():
        return {"zoo": str(said["zoo"]), "ref": str(said["ref"])}
    return {"zoo": bundle.zoo, "ref": ref_of(line)}


def ref_of(line: Line) -> str:
    return f"{line['name']}@{line['number']}"
