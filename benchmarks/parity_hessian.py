"""Do eigenvalues, trace and density of the Hessian agree with PyHessian's?

    python benchmarks/parity_hessian.py

Trains three small networks on the digits that zoo ships, and looks at the Hessian of each with both
programs, on the same examples in the same batches. PyHessian draws its random vectors itself; they
are recorded and given to zoo too, so that what differs is arithmetic and not luck. The smallest
network is also held against torch's exact Hessian.

PyHessian 0.1 is installed into a folder of its own under `work/` and used as it is, but for
`torch.eig`, which torch no longer has.

Writes `results/parity_hessian.md`. Exits 1 when something differs by more than 1 %.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import commit

from zoo.grow.training import TrainingPlan, train
from zoo.landscape import hessian as numerics
from zoo.landscape.examples import Examples
from zoo.landscape.lanczos import lanczos
from zoo.landscape.objective import Objective
from zoo.plugins import load_plugins
from zoo.sample import Sample

HERE = Path(__file__).resolve().parent
PYHESSIAN = "0.1"
CLOSE = 1e-2
"""Relative difference that is still agreement."""
EXAMPLES = 640
PROBES = 50
STEPS = 100
EXACT = 1000
"""Parameters up to which the exact Hessian is formed."""
NETWORKS: dict[str, tuple[str, Mapping[str, Any], int]] = {
    "MLP 64-8-8-10": ("zoo_mlp", {"inputs": 64, "width": 8, "depth": 2, "activation": "relu"}, 640),
    "MLP 64-64-64-10": (
        "zoo_mlp",
        {"inputs": 64, "width": 64, "depth": 2, "activation": "relu"},
        64,
    ),
    "CNN, BatchNorm": (
        "zoo_cnn",
        {"channels": 1, "size": 8, "width": 16, "depth": 2, "hidden": 64, "norm": "batch"},
        64,
    ),
    "ResNet, BatchNorm": (
        "zoo_resnet",
        {"channels": 1, "width": 16, "blocks": [1, 1, 1], "norm": "batch"},
        64,
    ),
}


@dataclass(frozen=True)
class Row:
    """One number of one network in both programs."""

    network: str
    what: str
    theirs: float
    ours: float
    scale: float
    """What the difference is relative to."""

    @property
    def relative(self) -> float:
        return abs(self.theirs - self.ours) / self.scale


def install(work: Path) -> None:
    """Put PyHessian where it can be imported."""
    home = work / f"pyhessian-{PYHESSIAN}"
    if not home.exists():
        print(f"installing PyHessian {PYHESSIAN} …", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(home)]
        subprocess.run([*pip, f"PyHessian=={PYHESSIAN}"], check=True)
    sys.path.insert(0, str(home))

    def eig(matrix: torch.Tensor, eigenvectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What torch.eig gave of a symmetric matrix: (real, imaginary) parts, and vectors."""
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    torch.eig = eig


@contextmanager
def recorded() -> Iterator[list[torch.Tensor]]:
    """The signs that PyHessian draws, tensor by tensor."""
    drawn: list[torch.Tensor] = []
    real = torch.randint_like

    def recording(*args: Any, **how: Any) -> torch.Tensor:
        drawn.append(real(*args, **how))
        return drawn[-1]

    torch.randint_like = recording
    try:
        yield drawn
    finally:
        torch.randint_like = real


def flat(drawn: list[torch.Tensor], tensors: int) -> list[torch.Tensor]:
    """One vector for every so many tensors."""
    groups = [drawn[i : i + tensors] for i in range(0, len(drawn), tensors)]
    return [torch.cat([t.detach().reshape(-1) for t in group]) for group in groups]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def compare(name: str, kind: str, config: Mapping[str, Any], batch: int) -> tuple[list[Row], str]:
    """Both programs on one network; the rows, and a line on what it took."""
    from pyhessian import hessian

    plugins = load_plugins()
    task = plugins.tasks["digits"]
    architecture = plugins.architectures[kind]
    torch.manual_seed(0)
    module = architecture.build({"model_type": kind, "classes": 10, **config})
    train(module, task, TrainingPlan(lr=0.02, epochs=8, batch=64), seed=0)
    module.eval()
    sample = Sample(task, "train", EXAMPLES, batch)
    batches = list(sample.batches())
    loss = Objective(module, Examples(sample, torch.float32), sample, torch.float32)
    loss_function = torch.nn.functional.cross_entropy
    if len(batches) == 1:
        theirs = hessian(module, loss_function, data=batches[0], cuda=False)
    else:
        theirs = hessian(module, loss_function, dataloader=batches, cuda=False)
    tensors = len(list(module.parameters()))
    rows: list[Row] = []

    torch.manual_seed(1)
    tight = theirs.eigenvalues(maxIter=1000, tol=1e-6)[0][0]
    (loose, _), their_time = timed(lambda: theirs.eigenvalues())
    start = numerics.gaussian(loss, sample.generator())
    (top,), our_time = timed(lambda: numerics.leading(loss.hvp, start))
    (power,) = numerics.power_iteration(loss.hvp, [start], iterations=1000, tolerance=1e-6)
    rows += [
        Row(name, "top, power iteration to 1e-6", tight, power.value, abs(tight)),
        Row(name, "top, ours by Lanczos", tight, top.value, abs(tight)),
    ]
    if loss.size <= EXACT:
        units = torch.eye(loss.size)
        exact = torch.stack([loss.hvp(e) for e in units]).double()
        torchs = exact_hessian(module, batches[0])
        apart = float((exact - torchs).norm() / torchs.norm())
        rows.append(Row(name, "whole Hessian, theirs: torch's exact one", 0, apart, 1))
        largest = float(torch.linalg.eigvalsh(torchs).abs().max())
        rows.append(Row(name, "top, theirs: torch's exact one", largest, top.value, largest))

    with recorded() as drawn:
        found, their_traces = timed(lambda: theirs.trace(maxIter=PROBES, tol=0))
    vectors = flat(drawn, tensors)
    ours, our_traces = timed(lambda: loss.curvatures(vectors))
    apart = max(abs(a - b) for a, b in zip(found, ours, strict=True))
    mean = sum(found) / len(found)
    rows += [
        Row(name, f"trace, mean of {PROBES} probes", mean, sum(ours) / len(ours), abs(mean)),
        Row(name, "trace, the probe that differs most", 0, apart, abs(mean)),
    ]

    with recorded() as drawn:
        ((values,), (weights,)), _ = timed(lambda: theirs.density(iter=STEPS, n_v=1))
    ritz = lanczos(loss.hvp, flat(drawn, tensors)[0], STEPS)
    t, w = torch.tensor(values).double(), torch.tensor(weights).double()
    for label, a, b in (
        ("density, largest node", t.max(), ritz.values.max()),
        ("density, mean", (w * t).sum(), (ritz.weights * ritz.values).sum()),
        ("density, mean square", (w * t**2).sum(), (ritz.weights * ritz.values**2).sum()),
    ):
        rows.append(Row(name, label, float(a), float(b), abs(float(a))))
    said = (
        f"{name}: {loss.size:,} parameters, {len(batches)} x {batch} examples. Top eigenvalue: "
        f"PyHessian with its defaults {their_time:.2f} s ({loose[0]:.4g}), zoo {our_time:.2f} s "
        f"({top.value:.4g}, {top.iterations} products, residual {top.residual:.1g}). "
        f"{PROBES} probes: {their_traces:.2f} s and {our_traces:.2f} s."
    )
    return rows, said


def exact_hessian(module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """By torch.autograd.functional, in float64."""
    x, y = batch
    named = {n: p.detach().double() for n, p in module.named_parameters()}
    sizes, shapes = [p.numel() for p in named.values()], [p.shape for p in named.values()]

    def loss(theta: torch.Tensor) -> torch.Tensor:
        parts = torch.split(theta, sizes)
        state = {n: p.view(s) for n, p, s in zip(named, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(module, state, (x.double(),))
        return torch.nn.functional.cross_entropy(outputs, y)

    theta = torch.cat([p.reshape(-1) for p in named.values()])
    return torch.autograd.functional.hessian(loss, theta)


def page(rows: list[Row], said: list[str]) -> str:
    lines = [
        "# The Hessian in PyHessian and in zoo",
        "",
        f"{datetime.date.today().isoformat()}; PyHessian {PYHESSIAN}, zoo "
        f"{version('zoo-registry')} ({commit()}), torch {version('torch')}, float32, one thread. "
        "Written by `benchmarks/parity_hessian.py`. Networks trained for 8 epochs on the shipped "
        f"digits; the Hessian of {EXAMPLES} training examples. Both programs get the same random "
        "vectors, but for power iteration. PyHessian's density calls `torch.eig`, which torch no "
        "longer has; the benchmark puts `eigh` in its place. Times are of one run on a machine "
        "that may be busy.",
        "",
        "| network | what | PyHessian | zoo | relative difference |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {r.network} | {r.what} | {r.theirs:.6g} | {r.ours:.6g} | {r.relative:.1e} |"
        for r in rows
    ]
    return "\n".join([*lines, "", *(f"- {line}" for line in said)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Using backward.. with create_graph")
    install(options.work.resolve())
    rows: list[Row] = []
    said: list[str] = []
    for name, (kind, config, batch) in NETWORKS.items():
        more, line = compare(name, kind, config, batch)
        rows += more
        said.append(line)
        print(line, file=sys.stderr)
    text = page(rows, said)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "parity_hessian.md").write_text(text)
    apart = [r for r in rows if not r.relative <= CLOSE]
    if apart:
        sys.exit(f"{len(apart)} of {len(rows)} numbers differ by more than {CLOSE:.0%}.")


if __name__ == "__main__":
    main()
