"""Router weights of a mixture of dense siblings: which expert a token is for.

    hidden            state entering the layer in the base, last token, mean over the prompts
    hidden_last       the same
    hidden_avg        mean over the tokens of each prompt, then over the prompts
    cheap_embed       sum of the token embeddings of all prompts; the same row in every layer
    random            N(0, 1)
    uniform_random    U(-1/sqrt d, 1/sqrt d), as `torch.nn.Linear` begins

The first four subtract what negative prompts give and have rows of length 1.

Source: mergekit, `mergekit/moe/router.py` and `docs/moe.md`.
Departs: in float32, where mergekit runs the base in bfloat16; prompts are not padded, so that
`hidden_avg` is a mean over tokens alone; what is drawn follows from the seed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Checkpoint
from zoo.moe.draws import normal, uniform
from zoo.moe.hidden import embedded, entering
from zoo.moe.options import DRAWN, ExpertOptions

if TYPE_CHECKING:
    import torch

SMALLEST = 1e-8
"""No row is divided by less."""
MOST_SIMILAR = 5.0
"""Condition number of a layer's router above which some experts will hardly be used."""


class Router:
    """The router of all layers, worked out when a row is first asked for.

    Args:
        mode: one of those above.
        base: the checkpoint of the base.
        config: its configuration.
        experts: what is said of each expert, routed ones first, then shared ones.
        routed: how many of them the router chooses from.
        ids: token ids of every prompt.
        keys: what each expert's drawn numbers follow from.
        seed: of the draws.
    """

    def __init__(
        self,
        mode: str,
        base: Checkpoint,
        config: Mapping[str, Any],
        experts: Sequence[ExpertOptions],
        routed: int,
        ids: Mapping[str, Sequence[int]],
        keys: Sequence[str],
        seed: int,
    ) -> None:
        self._mode, self._base, self._config = mode, base, config
        self._experts, self._routed = experts, routed
        self._ids, self._keys, self._seed = ids, keys, seed
        self._lock = threading.Lock()
        self._made: torch.Tensor | None = None
        self.notes: dict[str, Any] = {}
        """`router_condition`, a number or null (endless) per layer, and what it means: both once it
        is worked out."""

    def routed(self, layer: int) -> torch.Tensor:
        """The router's rows in a layer, float32, shape (experts, d)."""
        return self._all()[layer, : self._routed]

    def shared(self, layer: int) -> torch.Tensor:
        """The rows of shared experts, float32, shape (shared, d); zeros for one without prompts."""
        return self._all()[layer, self._routed :]

    def _all(self) -> torch.Tensor:
        with self._lock:  # the first of many threads works, the others wait for it
            if self._made is None:
                self._made = self._drawn() if self._mode in DRAWN else self._prompted()
                found = conditions(self._made[:, : self._routed])
                self.notes["router_condition"] = [_plain(c) for c in found]
                if self._mode not in DRAWN and (said := degenerate(found)):
                    self.notes["notes"] = [*self.notes.get("notes", ()), said]
        return self._made

    def _drawn(self) -> torch.Tensor:
        import torch

        layers, d = self._config["num_hidden_layers"], self._config["hidden_size"]
        made = torch.empty(layers, len(self._keys), d)
        for layer in range(layers):
            what = f"gate of layer {layer}"
            for e, key in enumerate(self._keys):
                row = (
                    normal(self._seed, what, key, 0, d)
                    if self._mode == "random"
                    else uniform(self._seed, what, key, d, 1 / sqrt(d))
                )
                made[layer, e] = torch.from_numpy(row)
        return made

    def _prompted(self) -> torch.Tensor:
        """Shape (layers, experts, d); rows have length 1, but those without prompts are zeros."""
        import torch

        found = self._embeddings() if self._mode == "cheap_embed" else self._states()
        layers, d = self._config["num_hidden_layers"], self._config["hidden_size"]
        rows = []
        for expert in self._experts:
            if not expert.positive_prompts:
                rows.append(torch.zeros(layers, d))
                continue
            row = self._mean(found, expert.positive_prompts)
            if expert.negative_prompts:
                row = row - self._mean(found, expert.negative_prompts)
            rows.append(unit(row))
        return torch.stack(rows, dim=1)

    def _mean(self, found: Mapping[str, torch.Tensor], prompts: Sequence[str]) -> torch.Tensor:
        """What prompts have in common, shape (layers, d)."""
        import torch

        total = torch.stack([found[p] for p in prompts]).sum(dim=0)
        return unit(total) if self._mode == "cheap_embed" else total / len(prompts)

    def _embeddings(self) -> dict[str, torch.Tensor]:
        """Sum of the token embeddings of each prompt, shape (layers, d)."""
        layers = self._config["num_hidden_layers"]
        return {
            p: embedded(self._base, ids).sum(dim=0).repeat(layers, 1)
            for p, ids in self._ids.items()
        }

    def _states(self) -> dict[str, torch.Tensor]:
        """State of each prompt entering each layer, shape (layers, d)."""
        ids = list(self._ids.values())
        states = entering(self._base, self._config, ids, average=self._mode == "hidden_avg")
        return dict(zip(self._ids, states, strict=True))


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1 along the last axis; zeros stay zeros."""
    lengths: torch.Tensor = rows.norm(dim=-1, keepdim=True)
    return rows / lengths.clamp(min=SMALLEST)


def degenerate(found: Sequence[float]) -> str | None:
    """What to say of condition numbers, one per layer; None where they are well."""
    bad = [i for i, c in enumerate(found) if not c <= MOST_SIMILAR]
    if not bad:
        return None
    listed = ", ".join(map(str, bad[:8])) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    where = "every layer" if len(bad) == len(found) else f"layers {listed}"
    worst = max(found)
    return (
        f"the router hardly tells the experts apart in {where} (condition number up to "
        f"{worst:.3g}, above {MOST_SIMILAR:g}): some experts will be used little; write prompts "
        "that have less in common"
    )


def _plain(number: float) -> float | None:
    return round(number, 4) if number < float("inf") else None


def conditions(rows: torch.Tensor) -> list[float]:
    """Condition number of each layer's router: how close the rows are to depending on each other.

    Args:
        rows: shape (layers, experts, d).
    """
    import torch

    return [float(c) for c in torch.linalg.cond(rows.double())]
