"""How near fine-tunes of published networks are to their base, and how far other networks are."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations
from pathlib import Path

import pytest

from zoo.compatibility import origins
from zoo.plugins import Plugins

DATA = Path(__file__).parents[3] / "shared" / "data"
RELATED = ("w2x-upresnet10", "w2x-upconv7-photo", "pangolin-splice")
UNRELATED = ("openspliceai-80nt", "wakeword-zoo/a")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def cosines(folder: str, plugins: Plugins) -> list[float]:
    """Of all pairs of the first models in a folder that have matrices of one shape."""
    (safetensors,) = (f for f in plugins.formats if f.name == "safetensors")
    with ExitStack() as stack:
        found = sorted(p.parent for p in (DATA / folder).rglob("model.safetensors"))
        opened = [stack.enter_context(safetensors.open(p)) for p in found[:8]]
        measured = (origins.closeness(a, b) for a, b in combinations(opened, 2))
        return [c for c in measured if c is not None]


@pytest.mark.parametrize("folder", RELATED)
def test_fine_tunes_of_one_network_are_nearer_than_the_bound(folder: str, plugins: Plugins) -> None:
    found = cosines(folder, plugins)

    assert len(found) >= 10 and min(found) > 2 * origins.FAR


@pytest.mark.parametrize("folder", UNRELATED)
def test_networks_of_other_starts_are_farther(folder: str, plugins: Plugins) -> None:
    found = cosines(folder, plugins)

    assert len(found) >= 3 and max(map(abs, found)) < origins.FAR / 3


def test_a_base_and_its_fine_tune_are_told_from_other_members_of_an_ensemble(
    plugins: Plugins,
) -> None:
    (safetensors,) = (f for f in plugins.formats if f.name == "safetensors")
    with ExitStack() as stack:
        found = {
            p.parent.name: stack.enter_context(safetensors.open(p.parent))
            for p in (DATA / "ani-potentials").rglob("model.safetensors")
        }
        near = {
            (a, b): (origins.closeness(found[a], found[b]) or 0.0) > origins.FAR
            for a, b in combinations(sorted(found), 2)
        }

    assert [pair for pair, is_near in near.items() if is_near] == [
        (f"ani1ccx-m{i}", f"ani1x-m{i}") for i in range(3)
    ]
