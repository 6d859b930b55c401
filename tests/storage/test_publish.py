"""The last step of every version: what it names must be in the store by then."""

from __future__ import annotations

import pytest
import torch

from zoo.errors import StoreError
from zoo.records import VersionDraft
from zoo.storage.publish import publish


def test_a_version_whose_file_is_nowhere_is_not_published(registry, save):
    version = registry.register(save({"w": torch.ones(2, 2)}), name="m")
    files = registry.catalog.files(version.id)
    tensors = registry.catalog.tensors(version.id)
    gone = next(f for f in files if f.path == "config.json")
    registry.store.path(gone.object).unlink()
    draft = VersionDraft(
        name="n", kind="merge", digest=version.digest, tensors=tensors, files=files
    )

    with pytest.raises(StoreError, match=r"`config.json` of `n` is not in the store.*zoo fsck"):
        publish(registry, {}, draft)

    assert ["m@1"] == [v.ref for v in registry.select()]
