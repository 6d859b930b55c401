"""A picture of what a method does: toy experts, merged by the method itself, as SVG.

`picture` takes any method. How it draws follows from what the method works on: bars for entries,
heat maps for those that take whole tensors. Only a method about angles has to be named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, sin
from typing import TYPE_CHECKING, Any

from generator.svg import Drawing

if TYPE_CHECKING:
    import torch

    from zoo.contract import Method

ANGLES = frozenset({"karcher", "model_stock", "multislerp", "nuslerp", "slerp"})
"""Drawn as arrows in the plane: their point is a direction, not an entry."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "awd": {"relative": True},
    "breadcrumbs": {"density": 0.5, "gamma": 0.15, "lambda": 1.0},
    "cabs": {"n": 1, "m": 4, "weight": 1.0},
    "della": {"density": 0.5, "epsilon": 0.3},
    "lines": {"alpha": 0.2, "beta": 0.8},
    "nearswap": {"t": 0.25},
    "ram": {"epsilon": 0.09},
    "sce": {"select_topk": 0.5},
    "task_vectors": {"sparsify": "magnitude", "scope": "tensor", "density": 0.5, "elect": "count"},
    "twin": {"rank_fraction": 0.34},
    "wudi": {"solver": "closed_form"},
}
"""Parameters of a method's picture, where `USUAL` does not show what it does."""
USUAL: dict[str, Any] = {"density": 0.5}
"""Parameters of every other picture whose method has them."""
NEEDED: dict[str, Any] = {"weight": 1.0}
"""Parameters that a method asks for; all others that it asks for are one half."""
PRUNED = frozenset({"sparse_soup"})
"""Methods for models that are pruned alike: every third entry of the toy experts is 0."""

LAYERS, PER_LAYER = 3, 8
NAME = "model.layers.{}.mlp.weight"
# By hand. Layer 0: the first two agree, the third is small. Layer 1: they contradict each other.
# Layer 2: each has entries of its own. Everywhere some are large and most small, as in real deltas.
BARS = (
    (0.9, 0.5, -0.3, 0.08, -0.7, 0.22, 0.04, 0.35, 0.8, -0.6, 0.15, 0.4, -0.06, -0.3, 0.55, -0.12,
     0.75, 0.03, -0.45, 0.05, 0.1, -0.02, 0.3, 0.01),
    (0.7, 0.6, -0.2, -0.05, -0.5, 0.3, -0.1, 0.2, -0.5, 0.7, 0.25, -0.35, 0.12, 0.33, -0.6, -0.2,
     0.02, 0.6, 0.04, -0.8, -0.03, 0.07, 0.25, -0.4),
    (0.06, -0.1, -0.15, 0.4, -0.04, 0.01, 0.5, -0.08, -0.45, 0.1, -0.65, -0.3, 0.02, 0.36, -0.09,
     -0.16, 0.04, -0.05, 0.02, 0.06, 0.9, -0.5, 0.2, -0.03),
)  # fmt: skip
BASE = tuple(0.8 * cos(1.7 * i + 0.4) for i in range(LAYERS * PER_LAYER))
"""Where a base is required; nothing in the pictures depends on it, unless the method does."""
ARROWS = ((1.0, 0.15), (0.3, 0.65), (0.1, 1.0))
ARROWS_BASE = (0.3, 0.2)
NOTHING = 0.05
"""Pixels; a bar that is shorter is left out, whose sign may be rounding."""
SIDE = 6
"""Rows and columns of the matrices of a heat map."""


@dataclass(frozen=True)
class Picture:
    svg: str
    caption: str
    """One sentence or two; says what is drawn with which parameters."""


def picture(method: Method) -> Picture | None:
    """The picture of a method; None for one that weights alone do not show."""
    if method.needs in ("model", "data"):
        return None
    if method.name in ANGLES:
        return _arrows(method)
    return _heat_maps(method) if method.needs == "tensor" else _bars(method)


def _merge(
    method: Method, deltas: torch.Tensor, base: torch.Tensor, **more: Any
) -> list[torch.Tensor]:
    """What the method makes of the toy experts, minus the base where it has one.

    Args:
        deltas: shape (e, layers, *shape), a tensor of each layer of each expert.
        base: shape (layers, *shape), used by a method that requires it.
    Returns:
        The merged model, shape (layers, *shape); then, of a method that keeps parts per task, the
        model of each task.
    """
    import torch

    from zoo.engine.in_memory import merge

    def state(layers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {NAME.format(i): layer.contiguous() for i, layer in enumerate(layers)}

    origin = base if method.base == "required" else torch.zeros_like(base)
    made = merge(
        method,
        [state(origin + delta) for delta in deltas],
        base=state(origin) if method.base == "required" else None,
        artifacts={role: [state(delta.square()) for delta in deltas] for role in method.artifacts},
        parameters=_parameters(method) | more,
    )
    models = [made]
    if method.overlays is not None:
        models += [made.task(i) for i in range(len(deltas))]
    return [torch.stack([m[NAME.format(i)] for i in range(len(base))]) - origin for m in models]


def _parameters(method: Method) -> dict[str, Any]:
    """What the picture sets."""
    fields = {f.alias or n: f for n, f in method.parameters.model_fields.items()}
    needed = {name: NEEDED.get(name, 0.5) for name, f in fields.items() if f.is_required()}
    usual = {name: value for name, value in USUAL.items() if name in fields}
    return needed | EXAMPLES.get(method.name, usual)


def _experts(method: Method) -> int:
    return max(method.min_experts, min(3, method.max_experts or 3))


def _words(method: Method) -> tuple[str, str]:
    """What an input is called, and how the caption names the result."""
    if method.base == "required":
        return "task vector", f"what `{method.name}` adds to the base"
    return "expert", f"what `{method.name}` makes of {'them' if _experts(method) > 1 else 'it'}"


def _caption(method: Method, count: int, what: str, legend: str) -> str:
    """One sentence on what is shown, one on the parameters, one on how to read it."""
    noun, result = _words(method)
    many = ("One toy", "Two toy", "Three toy")[count - 1]
    shown = ", ".join(f"`{name}={value}`" for name, value in _parameters(method).items())
    more = "" if method.deterministic else " Chance decides; this is seed 0."
    for role in method.artifacts:
        more += f" `{role}` is here the square of each entry."
    return (
        f"{many} {noun}{'s' * (count > 1)} {what}, and {result}"
        f"{f', with {shown}' if shown else ''}. {legend}{more}"
    )


def _bars(method: Method) -> Picture:
    import torch

    count = _experts(method)
    bars = [[v * (i % 3 > 0 or method.name not in PRUNED) for i, v in enumerate(b)] for b in BARS]
    deltas = torch.tensor(bars[:count], dtype=torch.float64).view(count, LAYERS, 1, PER_LAYER)
    base = torch.tensor(BASE, dtype=torch.float64).view(LAYERS, 1, PER_LAYER)
    merged, *tasks = [made.flatten().tolist() for made in _merge(method, deltas, base)]
    dropped = _dropped(method, deltas, base)
    mean = deltas.mean(0).flatten().tolist()
    noun, _ = _words(method)

    left, step, gap, top = 112, 20, 14, 30
    unit = min(30, 66 / max(0.1, *map(abs, merged)))  # pixels per unit; the sum may be tall
    rows = [
        _Row(f"{noun} {i + 1}" if count > 1 else noun, bars[i], gone=dropped[i])
        for i in range(count)
    ]
    rows.append(_Row("merged", merged, across=mean))
    rows += [_Row(f"model {i + 1}", made, across=bars[i]) for i, made in enumerate(tasks)]
    heights = [unit * (row.high - row.low) + 18 for row in rows]
    width = left + LAYERS * PER_LAYER * step + (LAYERS - 1) * gap + 16
    drawing = Drawing(width, top + sum(heights) + 10, f"{method.name} on toy {noun}s")

    def place(entry: int) -> float:
        return left + entry * step + entry // PER_LAYER * gap

    for layer in range(LAYERS):
        middle = place(layer * PER_LAYER) + PER_LAYER * step / 2
        drawing.words(middle, 20, f"layer {layer}", "middle")
    y = float(top)
    for row, height in zip(rows, heights, strict=True):
        axis = y + 9 + unit * row.high
        drawing.words(14, axis + 4, row.label)
        for layer in range(LAYERS):
            start = place(layer * PER_LAYER)
            drawing.line(start, axis, start + PER_LAYER * step - 4, axis, "axis")
        for entry, value in enumerate(row.values):
            size = abs(value) * unit
            look = "gone" if entry in row.gone else "up" if value > 0 else "down"
            if size > NOTHING:
                drawing.bar(place(entry) + 1, axis - size * (value > 0), 14, size, look)
        for entry, value in enumerate(row.across):
            at = axis - value * unit
            drawing.line(place(entry) + 1, at, place(entry) + 15, at, "mean")
        y += height
    across = "the plain mean" if count > 1 else f"the {noun}"
    legend = f"The line across each merged entry is {across}."
    if tasks:
        legend += f" Model i is that of task i; the line across its entries is {noun} i."
    if any(dropped):
        legend = "Hollow bars are entries that the method drops; " + legend[0].lower() + legend[1:]
    return Picture(drawing.text(), _caption(method, count, "of 24 entries in 3 layers", legend))


@dataclass(frozen=True)
class _Row:
    """Bars beside a label."""

    label: str
    values: Sequence[float]
    gone: frozenset[int] = frozenset()
    """Entries drawn hollow."""
    across: Sequence[float] = ()
    """A line at each entry, to compare with."""

    @property
    def high(self) -> float:
        return max(0.1, *self.values, *self.across)

    @property
    def low(self) -> float:
        return min(-0.1, *self.values, *self.across)


def _dropped(method: Method, deltas: torch.Tensor, base: torch.Tensor) -> list[frozenset[int]]:
    """Which entries of each delta come to nothing, the method's own way.

    Asked by giving all the weight to one expert: what then is not in the result was dropped. A
    method that has no weights, or cannot do with one, is not asked.
    """
    from zoo.errors import ZooError
    from zoo.parameters import per_expert

    nothing: list[frozenset[int]] = [frozenset()] * len(deltas)
    if method.space != "delta" or "weight" not in per_expert(method):
        return nothing
    found = []
    for i, delta in enumerate(deltas):
        weight = [float(i == j) for j in range(len(deltas))]
        try:
            alone = _merge(method, deltas, base, weight=weight)[0]
        except ZooError:
            return nothing
        # The base was added and taken away again, so zero is only nearly so.
        gone = ((alone.abs() < 1e-12) & (delta != 0)).flatten().nonzero().flatten()
        found.append(frozenset(gone.tolist()))
    return found


def _arrows(method: Method) -> Picture:
    import torch

    from zoo.parameters import per_expert

    count = _experts(method)
    deltas = torch.tensor(ARROWS[:count], dtype=torch.float64).view(count, 1, 2)
    base = torch.tensor([ARROWS_BASE], dtype=torch.float64)
    merged = _merge(method, deltas, base)[0][0].tolist()
    mean = deltas.mean(0)[0].tolist()
    noun, _ = _words(method)

    unit, left, bottom = 230, 40, 270
    drawing = Drawing(480, 300, f"{method.name} on toy {noun}s")

    def at(point: Sequence[float]) -> tuple[float, float]:
        return left + unit * point[0], bottom - unit * point[1]

    origin = at((0, 0))
    drawing.line(left - 14, bottom, left + 1.15 * unit, bottom, "axis")
    drawing.line(left, bottom + 14, left, bottom - 1.1 * unit, "axis")
    looks = ("one", "two", "three")
    for x, y in ARROWS[:count]:
        drawing.arc(left, bottom, unit * hypot(x, y))
    legend = "Dashed: the norms of the inputs; the ring is the plain mean."
    if "t" in method.parameters.model_fields and "t" not in per_expert(method):
        for step in range(1, 10):
            point = _merge(method, deltas, base, t=step / 10)[0][0].tolist()
            drawing.dot(*at(point), 3, "merged")
        legend += " Dots: `t` from 0.1 to 0.9."
    for (x, y), look in zip(ARROWS[:count], looks, strict=False):
        drawing.arrow(*origin, *at((x, y)), look, 2.5)
    drawing.arrow(*origin, *at(merged), "merged", 3.5)
    drawing.dot(*at(mean), 6, "merged", hollow=True)
    for i, look in enumerate((*looks[:count], "merged")):
        label = "merged" if look == "merged" else f"{noun} {i + 1}"
        drawing.line(350, 40 + 24 * i, 372, 40 + 24 * i, look, ' stroke-width="3"')
        drawing.words(380, 44 + 24 * i, label)
    drawing.dot(361, 40 + 24 * (count + 1), 6, "merged", hollow=True)
    drawing.words(380, 44 + 24 * (count + 1), "plain mean")
    return Picture(drawing.text(), _caption(method, count, "of two entries", legend))


def _matrices(count: int) -> torch.Tensor:
    """Deltas of low rank, (e, SIDE, SIDE): a direction all share, and one or two of their own.

    A wave of another frequency for each direction, so that they are nearly orthogonal.
    """
    import torch

    def wave(k: float) -> torch.Tensor:
        return torch.tensor([sin(k * (i + 0.5)) for i in range(SIDE)], dtype=torch.float64)

    shared = torch.outer(wave(0.5), wave(0.6))
    own = [
        torch.outer(wave(1.1 + 0.6 * i), wave(2.6 - 0.5 * i))
        + 0.4 * torch.outer(wave(2.4 - 0.3 * i), wave(1.3 + 0.45 * i))
        for i in range(count)
    ]
    return torch.stack([0.7 * shared + 0.5 * delta for delta in own])


def _heat_maps(method: Method) -> Picture:
    import torch

    count = _experts(method)
    deltas = _matrices(count)[:, None]
    base = torch.tensor([[BASE[: SIDE * SIDE][(i * 5) % 24] for i in range(SIDE * SIDE)]])
    base = base.double().view(1, SIDE, SIDE)
    merged, *tasks = [made[0] for made in _merge(method, deltas, base)]
    noun, _ = _words(method)

    panels = [(f"{noun} {i + 1}" if count > 1 else noun, d[0]) for i, d in enumerate(deltas)]
    panels += [("plain mean", deltas.mean(0)[0]), ("merged", merged)]
    across = len(panels)  # panels side by side; the models of tasks go below the inputs
    panels += [(f"model {i + 1}", made) for i, made in enumerate(tasks)]
    cell, gap, top, foot = 17, 26, 34, 84
    side = cell * SIDE
    spectra = [torch.linalg.svdvals(matrix).tolist() for _, matrix in panels]
    tallest = max(map(max, spectra)) or 1.0
    strongest = max(float(matrix.abs().max()) for _, matrix in panels) or 1.0
    width = 20 + across * (side + gap) - gap + 20
    block = top + side + foot + 28
    drawing = Drawing(width, block * (2 if tasks else 1), f"{method.name} on toy {noun}s")
    for i, ((label, matrix), spectrum) in enumerate(zip(panels, spectra, strict=True)):
        x, y = 20 + i % across * (side + gap), i // across * block
        drawing.words(x + side / 2, y + 22, label, "middle")
        for row in range(SIDE):
            for column in range(SIDE):
                value = float(matrix[row, column])
                strength = round(abs(value) / strongest, 2)
                if strength:
                    drawing.bar(
                        x + column * cell, y + top + row * cell, cell - 1, cell - 1,
                        "up" if value > 0 else "down", strength,
                    )  # fmt: skip
        floor = y + top + side + foot
        drawing.line(x, floor, x + side, floor, "axis")
        for k, size in enumerate(spectrum):
            height = (foot - 16) * size / tallest
            if height > NOTHING:
                drawing.bar(x + k * cell + 2, floor - height, cell - 5, height, "merged")
        drawing.words(x + side / 2, floor + 18, "singular values", "middle")
    legend = "Below each matrix its singular values."
    if tasks:
        legend += " Model i is that of task i."
    return Picture(drawing.text(), _caption(method, count, f"of {SIDE} by {SIDE} entries", legend))
