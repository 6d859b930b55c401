"""Models on the Hugging Face Hub, or on what speaks its protocol: `hf://org/model@revision`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from zoo.source import RemoteSource


@hookimpl
def zoo_resolve_source(source: str) -> RemoteSource | None:
    """Find the commit that a revision stands for now; `HF_ENDPOINT` says where."""
    from zoo.hub.names import read_name

    name = read_name(source)
    if name is None:
        return None
    from zoo.hub.source import HubSource

    return HubSource(name)
