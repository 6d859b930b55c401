"""Merged adapters by zoo, by PEFT and as mergekit does: how far from the dense truth.

    python benchmarks/adapters_against_peft.py [--out FILE]

The truth is the method applied to the dense differences, B A times its scale, in float64. PEFT's
`add_weighted_adapter` combines factors; mergekit adds each adapter to its model in the model's type
first. Tiny models and random factors, made here. Writes `results/adapters.md`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zoo

ROOT = Path(__file__).parent
NAMES = ("a", "b", "c")
WEIGHTS = (0.5, 0.3, 0.4)
RANK, ALPHA, DENSITY, DRAWS = 16, 32, 0.3, 16
MODULES = ["q_proj", "v_proj", "down_proj"]
Deltas = dict[str, "np.ndarray[Any, np.dtype[np.float64]]"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "results/adapters.md")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    work = Path(tempfile.mkdtemp(prefix="zoo-adapters-"))
    try:
        asked.out.write_text(page(rows(work)))
    finally:
        shutil.rmtree(work)
    print(asked.out.read_text())


def rows(work: Path) -> list[tuple[str, str, dict[str, float]]]:
    """(what is merged, how, relative error by tool)."""
    make(work)
    base, dense = state(work / "base"), {name: truth_of(work, name) for name in NAMES}
    linear = combine(dense, lambda ds: sum(w * d for w, d in zip(WEIGHTS, ds, strict=True)))
    ties = combine(dense, ties_of)
    found = []

    def row(title: str, how: str, truth: Deltas, **made: Deltas) -> None:
        errors = {tool: error(deltas, truth) for tool, deltas in made.items()}
        found.append((title, how, errors))

    rounded = {name: rounded_of(base, dense[name]) for name in NAMES}
    row(
        "weighted sum",
        "`task_arithmetic`; `linear`",
        linear,
        zoo=by_zoo(work, base, "task_arithmetic", {"weight": list(WEIGHTS)}),
        peft=by_peft(work, "linear"),
        mergekit=combine(rounded, lambda ds: sum(w * d for w, d in zip(WEIGHTS, ds, strict=True))),
    )
    row(
        "weighted sum, dense in PEFT too",
        "`task_arithmetic`; `cat`",
        linear,
        zoo=by_zoo(work, base, "task_arithmetic", {"weight": list(WEIGHTS)}),
        peft=by_peft(work, "cat"),
    )
    row(
        "weighted sum, re-factored at the adapters' rank",
        f"`extract-lora --rank {RANK}`; `svd`",
        linear,
        zoo=by_zoo(work, base, "task_arithmetic", {"weight": list(WEIGHTS)}, rank=RANK),
        peft=by_peft(work, "svd"),
    )
    same = {"scope": "tensor", "density": DENSITY, "zero_sign": "positive"}
    row(
        f"TIES, density {DENSITY}",
        "`ties`; `ties`",
        ties,
        zoo=by_zoo(work, base, "ties", same),
        peft=by_peft(work, "ties", weights=(1.0, 1.0, 1.0)),
        mergekit=combine(rounded, ties_of),
    )
    row(
        f"TIES, density {DENSITY}, re-factored",
        f"`extract-lora --rank {RANK}`; `ties_svd`",
        ties,
        zoo=by_zoo(work, base, "ties", same, rank=RANK),
        peft=by_peft(work, "ties_svd", weights=(1.0, 1.0, 1.0)),
    )
    drawn = {"density": DENSITY, "weight": list(WEIGHTS)}
    row(
        f"DARE, density {DENSITY}, mean of {DRAWS} draws",
        "`dare`; `dare_linear`",
        linear,
        zoo=mean([by_zoo(work, base, "dare", drawn, seed=i) for i in range(DRAWS)]),
        peft=mean([by_peft(work, "dare_linear", seed=i) for i in range(DRAWS)]),
    )
    return found


def make(work: Path) -> None:
    """A base in bfloat16, and three adapters of it."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(work / "base")
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed + 1)
        model = peft.get_peft_model(loaded(work), settings())
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(str(work / name))


def settings() -> Any:
    import peft

    return peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=MODULES)


def loaded(work: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(work / "base", dtype=torch.float32)


def state(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def truth_of(work: Path, name: str) -> Deltas:
    """scale * B A in float64, by the base's names."""
    from safetensors.torch import load_file

    factors = load_file(work / name / "adapter_model.safetensors")
    found = {}
    for key in factors:
        if key.endswith("lora_A.weight"):
            module = key.removesuffix(".lora_A.weight")
            a, b = (factors[f"{module}.lora_{x}.weight"].double().numpy() for x in "AB")
            weight = module.removeprefix("base_model.model.") + ".weight"
            found[weight] = ALPHA / RANK * (b @ a)
    return found


def rounded_of(base: Mapping[str, torch.Tensor], dense: Deltas) -> Deltas:
    """What is left of an adapter that was added to a model in the model's own type."""
    return {
        n: ((base[n].double() + torch.from_numpy(d)).to(base[n].dtype).double() - base[n].double())
        .numpy()
        for n, d in dense.items()
    }  # fmt: skip


def combine(each: Mapping[str, Deltas], by: Callable[[list[Any]], Any]) -> Deltas:
    return {n: by([each[name][n] for name in NAMES]) for n in each[NAMES[0]]}


def ties_of(deltas: list[Any]) -> Any:
    """TIES of one tensor, weights 1: trim, elect by the sum, mean of those that agree."""
    kept = []
    for delta in deltas:
        least = np.sort(np.abs(delta).ravel())[-int(DENSITY * delta.size)]
        kept.append(np.where(np.abs(delta) >= least, delta, 0))
    stack = np.stack(kept)
    sign = np.where(stack.sum(0) >= 0, 1, -1)
    agree = np.where(np.sign(stack) == sign, stack, 0)
    return agree.sum(0) / np.maximum((agree != 0).sum(0), 1)


def by_zoo(
    work: Path,
    base: Mapping[str, torch.Tensor],
    method: str,
    parameters: Mapping[str, Any],
    seed: int = 0,
    rank: int | None = None,
) -> Deltas:
    """What `zoo merge` adds to the base, written in float32; with a rank, as an adapter."""
    out, lora = work / "out", work / "lora"
    for folder in (out, lora):
        shutil.rmtree(folder, ignore_errors=True)
    recipe = {
        "method": method,
        "experts": [str(work / name) for name in NAMES],
        "base": str(work / "base"),
        "parameters": dict(parameters),
        "seed": seed,
        "dtype": "float32",
    }
    with zoo.Registry(str(work / "none.db"), create=False) as registry:
        registry.merge(recipe, out=out)
        if rank is not None:
            registry.extract_lora(str(out), str(work / "base"), rank=rank, out=lora)
            one = {**recipe, "method": "linear", "experts": [str(lora)], "parameters": {}}
            shutil.rmtree(out)
            registry.merge(one, out=out)
    made = state(out)
    return {n: (t.double() - base[n].double()).numpy() for n, t in made.items()}


def by_peft(work: Path, kind: str, seed: int = 0, weights: tuple[float, ...] = WEIGHTS) -> Deltas:
    """What `add_weighted_adapter` adds to the base."""
    import peft

    torch.manual_seed(seed)
    model = peft.PeftModel.from_pretrained(loaded(work), str(work / NAMES[0]), NAMES[0])
    for name in NAMES[1:]:
        model.load_adapter(str(work / name), name)
    density = DENSITY if kind.startswith(("ties", "dare")) else None
    model.add_weighted_adapter(
        list(NAMES), list(weights), "merged", combination_type=kind, density=density
    )
    found = {}
    for key, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            weight = key.removeprefix("base_model.model.") + ".weight"
            found[weight] = module.get_delta_weight("merged").detach().double().numpy()
    return found


def mean(draws: list[Deltas]) -> Deltas:
    return {n: np.mean([d[n] for d in draws], axis=0) for n in draws[0]}


def error(made: Deltas, truth: Deltas) -> float:
    """Distance to the truth over its norm, over all tensors of the adapters."""
    missed = sum(float(np.sum((made[n] - t) ** 2)) for n, t in truth.items())
    total = sum(float(np.sum(t**2)) for t in truth.values())
    return float(np.sqrt(missed / total))


def page(found: list[tuple[str, str, dict[str, float]]]) -> str:
    import peft

    lines = [
        "# Merged adapters and the dense truth",
        "",
        f"Three random adapters of rank {RANK} of one tiny model in bfloat16. The error is the",
        "distance of the merged difference to the method applied to the dense differences B A in",
        "float64, divided by the norm of the latter: 0 is exact, 1 is as far as no adapter at all.",
        "Written by `python benchmarks/adapters_against_peft.py`, with zoo's results in float32,",
        f"and peft {peft.__version__}. mergekit's column is what its way must give, each adapter",
        "added to its model in the model's type and the rest exact; it was not run.",
        "",
        "| merge | zoo; PEFT | zoo | PEFT | mergekit's way |",
        "|---|---|---:|---:|---:|",
    ]
    for title, how, errors in found:
        cells = [f"{errors[t]:.1e}" if t in errors else "" for t in ("zoo", "peft", "mergekit")]
        lines.append(f"| {title} | {how} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "PEFT's `linear` and its pruning methods work on A and B apart: of the product of two",
        "sums, the terms A_i B_j of different adapters are added too. `cat`, `svd` and `ties_svd`",
        "work on the dense differences, as zoo does with every method; re-factored, both lose what",
        "the rank cannot hold.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
