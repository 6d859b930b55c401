"""Does zoo's merge agree with mergekit's, as far as mergekit's bfloat16 arithmetic allows?

mergekit 0.1.5 accumulates linear and SLERP in float32, as zoo does, so the two differ by one
rounding of the result. It computes task vectors, their sum and TIES in the dtype of the model. With
u = 2**-8, bfloat16's unit roundoff, each of its five steps (difference, weight, product, sum,
division) is off by at most u of sum_i |w_i delta_i|, and both programs round the result once:

    |zoo - mergekit| <= 5 u sum_i |w_i delta_i| + 2 u |merged|

TIES also decides. Where a decision hangs on a rounding, the programs may rightly differ by a whole
delta; such elements are counted as undecided, apart from the bound:
- a magnitude equal to its tensor's threshold: as many deltas of bfloat16 models are, and mergekit's
  unstable sort keeps an arbitrary share of them;
- an elected sum that is zero to within bfloat16's rounding of it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes import MERGES, Merge

if TYPE_CHECKING:
    from safetensors import safe_open
    from torch import Tensor

METHODS = ("linear", "slerp", "task_arithmetic", "ties")
"""Those that are compared in bfloat16; `parity.py` compares all, on small models in float32."""
ROUNDOFF = 2.0**-8  # bfloat16
FLOAT32_STEPS = 2.0**-20  # headroom for float32 sums taken in another order, relative


@dataclass(frozen=True)
class Agreement:
    """How two results of one merge compare.

    `largest_difference`: absolute, in weights. `elements`, `unequal`, `undecided`,
    `beyond_rounding`: counts; `beyond_rounding` excludes the undecided and must be 0.
    `worst_tensor`: where the largest difference is.
    """

    method: str
    elements: int
    unequal: int
    largest_difference: float
    worst_tensor: str
    undecided: int
    beyond_rounding: int

    @property
    def agrees(self) -> bool:
        return self.beyond_rounding == 0


def compare(merge: Merge, models: Path, ours: Path, theirs: Path) -> Agreement:
    """Compare two merged directories of bfloat16 safetensors, tensor by tensor.

    Raises:
        ValueError: names or shapes differ.
    Cost: one tensor of all models at a time in float32, 3 GB for an embedding of 0.5 B shapes.
    """
    import torch

    inputs = {name: _open(models / name) for name in merge.inputs}
    a, b = _open(ours), _open(theirs)
    if sorted(a.keys()) != sorted(b.keys()):
        odd = sorted(set(a.keys()) ^ set(b.keys()))
        raise ValueError(f"the two results have different tensors, such as {odd[:5]}")
    elements = unequal = undecided = beyond = 0
    largest, worst = -1.0, ""
    for name in sorted(a.keys()):
        x, y = a.get_tensor(name).float(), b.get_tensor(name).float()
        if x.shape != y.shape:
            raise ValueError(f"{name}: shapes differ ({tuple(x.shape)}, {tuple(y.shape)})")
        difference = (x - y).abs_()
        bound, open_to_choice = _allowed(
            merge, [f.get_tensor(name).float() for f in inputs.values()]
        )
        bound += 2 * ROUNDOFF * torch.maximum(x.abs(), y.abs())
        outside = difference > bound
        elements += x.numel()
        unequal += int(torch.count_nonzero(difference))
        if open_to_choice is not None:
            undecided += int(torch.count_nonzero(outside & open_to_choice))
            outside &= ~open_to_choice
        beyond += int(torch.count_nonzero(outside))
        if float(difference.max()) > largest:
            largest, worst = float(difference.max()), name
    return Agreement(merge.method, elements, unequal, largest, worst, undecided, beyond)


def _allowed(merge: Merge, tensors: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Allowed difference before the result's own rounding, and the undecided elements."""
    import torch

    if not merge.uses_base:  # float32 in both programs
        size = torch.stack([t.abs() for t in tensors]).amax(0)
        return size * FLOAT32_STEPS, None
    base, *experts = tensors
    del tensors
    total = torch.zeros_like(base)
    if merge.method != "ties":
        for expert, weight in zip(experts, merge.weights, strict=True):
            total += abs(weight) * (expert - base).abs_()
        return total * (5 * ROUNDOFF), None
    density = merge.settings["density"]
    elected = torch.zeros_like(base)
    at_threshold = torch.zeros_like(base, dtype=torch.bool)
    for expert, weight in zip(experts, merge.weights, strict=True):
        delta = expert - base
        size = delta.abs()
        kept = max(1, int(density * size.numel()))
        threshold = torch.kthvalue(size.flatten(), size.numel() - kept + 1).values
        at_threshold |= (size - threshold).abs() <= 2 * ROUNDOFF * threshold
        delta *= (size >= threshold * (1 - 2 * ROUNDOFF)) * weight
        elected += delta
        total += delta.abs()
    close = elected.abs() <= 5 * ROUNDOFF * total
    return total * (5 * ROUNDOFF), at_threshold | (close & (total > 0))


def _open(directory: Path) -> safe_open:
    from safetensors import safe_open

    return safe_open(directory / "model.safetensors", framework="pt")


def as_dict(agreement: Agreement) -> dict[str, object]:
    return {**asdict(agreement), "agrees": agreement.agrees}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("method", choices=sorted(MERGES))
    parser.add_argument("models", type=Path, help="directory with base, expert-1, …")
    parser.add_argument("ours", type=Path, help="zoo's result")
    parser.add_argument("theirs", type=Path, help="mergekit's result")
    options = parser.parse_args()
    result = compare(MERGES[options.method], options.models, options.ours, options.theirs)
    print(json.dumps(as_dict(result), indent=2))
    raise SystemExit(0 if result.agrees else 1)


if __name__ == "__main__":
    main()
