"""Finds the weights of `by-layer.yaml`; run once (minutes), kept as a record.

    python examples/upscaler/_fit_by_layer.py PHOTOGRAPHS > examples/upscaler/by-layer.yaml

Each part of the network is the base plus a weighted sum of the experts' deltas. The weights are
fitted by gradient ascent on the mean PSNR over the five noise levels, starting from noise1, on
squares of the photographs that do not touch the crops: the demo measures what was not fitted.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import PIL.Image
import torch
from _cut_crops import BOXES
from safetensors.torch import load_file
from upscaler_plugin import LEVELS, UpResNet10, degrade, to_tensor

EXPERTS = ("noise0", "noise1", "noise2", "noise3")
PARTS = ("conv_pre", "res1", "res2", "res3", "res4", "res5", "conv_bridge", "conv_post")
SIDE, STRIDE, SQUARES, BATCH, STEPS = 96, 100, 24, 6, 30
HEAD = """\
# Each part of the network has weights of its own, fitted by _fit_by_layer.py.
method: task_arithmetic
base: upscaler-base
select:
  where: kind = 'expert' and base = 'upscaler-base'
  order_by: name
parameters:
  weight:
"""


def squares(photographs: Path) -> list[PIL.Image.Image]:
    """Squares of the photographs that leave the crops alone."""
    found = []
    for file in ("astronaut.png", "coffee.png", "chelsea.png"):
        image = PIL.Image.open(photographs / file).convert("RGB")
        taken = [box for of, box in BOXES.values() if of == file]
        for y in range(0, image.height - SIDE + 1, STRIDE):
            for x in range(0, image.width - SIDE + 1, STRIDE):
                box = (x, y, x + SIDE, y + SIDE)
                if not any(_overlap(box, other) for other in taken):
                    found.append(image.crop(box))
    random.Random(1).shuffle(found)
    return found[:SQUARES]


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def fit(photographs: Path, models: Path) -> torch.Tensor:
    """The weights, shape (parts, experts)."""
    images = squares(photographs)
    full = torch.cat([to_tensor(i) for i in images])
    small = {v: torch.cat([to_tensor(degrade(i, v)) for i in images]) for v in LEVELS}
    base = load_file(models / "base-scale" / "model.safetensors")
    experts = [load_file(models / e / "model.safetensors") for e in EXPERTS]
    deltas = {k: torch.stack([e[k] - b for e in experts]) for k, b in base.items()}
    part = {k: next(i for i, p in enumerate(PARTS) if k.startswith(p)) for k in base}
    network = UpResNet10().build({}).to(memory_format=torch.channels_last)
    # What noise1 gives away: to the base, noise0, noise2 and noise3. The weights follow from it,
    # and the ascent is better conditioned than on the weights themselves.
    shares = torch.zeros(len(PARTS), 4, requires_grad=True)
    optimizer = torch.optim.Adam([shares], lr=0.015)
    for step in range(STEPS):
        optimizer.zero_grad()
        score = 0.0
        for level in LEVELS:
            for i in range(0, SQUARES, BATCH):
                weights = _weights(shares)
                state = {
                    k: b + torch.tensordot(weights[part[k]], deltas[k], 1) for k, b in base.items()
                }
                found = torch.func.functional_call(network, state, small[level][i : i + BATCH])
                error = (found - full[i : i + BATCH]).square().mean((1, 2, 3))
                loss = 10 * error.log10().sum() / (SQUARES * len(LEVELS))
                loss.backward()
                score -= loss.item()
        optimizer.step()
        print(f"step {step}: {score:.3f} dB", file=sys.stderr, flush=True)
    return _weights(shares).detach()


def _weights(shares: torch.Tensor) -> torch.Tensor:
    """(parts, shares) -> (parts, experts)."""
    _, noise0, noise2, noise3 = shares.unbind(1)
    return torch.stack((noise0, 1 - shares.sum(1), noise2, noise3), 1)


def main(photographs: Path) -> None:
    weights = fit(photographs, Path(__file__).parent / "models")
    print(HEAD, end="")
    for e, expert in enumerate(EXPERTS):
        print(f"    -  # {expert}")
        for p, part in enumerate(PARTS):
            print(f"      - {{filter: {part}, value: {weights[p, e]:.2f}}}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
