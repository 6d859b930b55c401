"""Do vocabularies merge as mergekit merges them, and are sums of tokens those that it finds?

    python benchmarks/tokenizer_parity.py [--env benchmarks/work/mergekit-env] [--out PAGE.md]

Runs the cases of `tests/tokenizers/mergekit_cases.py` in both tools on the same tiny models, and
compares the rows token by token, since mergekit's order of new tokens changes from run to run; then
orthogonal matching pursuit on atoms of unit length, where both take the nearest direction.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoint import MemoryCheckpoint
from zoo.tokenizers.pursuit import Matrix, pursued

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "tests" / "tokenizers"))

from mergekit_cases import CASES, MODELS, tensors_of  # noqa: E402  (a folder of tests)
from tiny_vocabularies import Merged  # noqa: E402

ATOMS, TARGETS, WIDTH, K = 20_000, 512, 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=ROOT / "work/mergekit-env")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        page = compared(Path(place), asked.env / "bin/python")
    print(page)
    if asked.out:
        asked.out.write_text(page)


def compared(place: Path, python: Path) -> str:
    """Both tools on all cases, as a page."""
    for seed, (name, model) in enumerate(MODELS.items()):
        model.write(place / name, seed)
    merges = []
    with zoo.open(place / "registry.db") as registry:
        for name, case in CASES.items():
            document = case.document(place)
            registry.merge(document, out=place / f"ours-{name}")
            (place / f"{name}.yaml").write_text(yaml.safe_dump(document))
            merges.append(
                {"config": str(place / f"{name}.yaml"), "out": str(place / f"its-{name}")}
            )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ATOMS + TARGETS, WIDTH, generator=generator, dtype=torch.float64)
    rows /= rows.norm(dim=1, keepdim=True)
    rows = rows.to(torch.float32)
    save_file({"targets": rows[ATOMS:], "atoms": rows[:ATOMS].clone()}, place / "omp.safetensors")
    jobs = {"merges": merges, "omp": {"file": str(place / "omp.safetensors"), "k": K}}
    (place / "jobs.json").write_text(json.dumps(jobs))
    script = ROOT / "tokenizer_parity_mergekit.py"
    run = subprocess.run(
        [python, script, place / "jobs.json"], capture_output=True, text=True, check=True
    )
    said = json.loads(run.stdout.strip().splitlines()[-1])
    lines = ["# Vocabularies: zoo and mergekit", "", "| case | tokens | largest difference |"]
    lines.append("|---|---|---|")
    for name in CASES:
        problem = said["failed"].get(str(place / f"its-{name}"), "").replace(f"{place}/", "")
        lines.append(f"| {name} | {f'- | {problem}' if problem else difference(place, name)} |")
    return "\n".join([*lines, "", *pursuit(place, rows, said["omp_seconds"]), ""])


def difference(place: Path, name: str) -> str:
    """Tokens of the result, and how far rows lie apart."""
    ours, its = Merged(place / f"ours-{name}"), Merged(place / f"its-{name}")
    known, theirs = ours.vocabulary, its.vocabulary
    if known.keys() != theirs.keys():
        return f"{len(known)} and {len(theirs)} | other tokens"
    far = 0.0
    for tensor in tensors_of(CASES[name]):
        if tensor not in its.state:
            return f"{len(known)} | mergekit leaves out `{tensor}`"
        order = [known[t] for t in known], [theirs[t] for t in known]
        a, b = ours.state[tensor], its.state[tensor]
        if len(a) != len(b):
            return f"{len(known)} | {len(a)} and {len(b)} rows"
        found = [a[order[0]] - b[order[1]], a[len(known) :] - b[len(known) :]]
        far = max(far, *(part.abs().max().item() for part in found if part.numel()))
    return f"{len(known)} | {far:.1e}"


def pursuit(place: Path, rows: torch.Tensor, seconds: float) -> list[str]:
    """The same sums?"""
    theirs = load_file(place / "theirs.safetensors")
    matrix = Matrix(MemoryCheckpoint({"rows": rows}), "rows")
    start = time.monotonic()
    ours = pursued(matrix, np.arange(ATOMS, ATOMS + TARGETS), np.arange(ATOMS), K)
    own = time.monotonic() - start
    same = (ours.atoms == theirs["atoms"]).all(1)
    far = (ours.coefficients - theirs["coefficients"]).abs()[same].max().item()

    def left(atoms: torch.Tensor, weights: torch.Tensor) -> float:
        made = (rows[atoms].double() * weights.unsqueeze(2)).sum(1)
        return (rows[ATOMS:].double() - made).norm(dim=1).mean().item()

    return [
        f"Matching pursuit, {TARGETS} of {ATOMS} atoms of width {WIDTH}, k = {K}:",
        f"{int(same.sum())} of {TARGETS} sums have the same tokens in the same order; their",
        f"coefficients differ by {far:.1e} at most. What is left of a unit vector is",
        f"{left(ours.atoms, ours.coefficients):.6f} and",
        f"{left(theirs['atoms'], theirs['coefficients']):.6f} (mergekit) on average.",
        f"{own:.1f} s and {seconds:.1f} s (mergekit).",
    ]


if __name__ == "__main__":
    main()
