"""The same mixture of experts by mergekit-moe and by zoo: every tensor, and the logits.

    python benchmarks/moe_against_mergekit.py [--work DIR] [--out FILE]

Tiny dense models of each kind, made here; mergekit runs in its own environment
(`benchmarks/work/mergekit-env`), once as it is, its base in bfloat16, and once with its base in
float32, which tells the effect of the type from that of the rule. Writes `results/moe.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
PROMPTS = [["prove it", "find out"], ["code now", "print it"], ["tell her", "once she"]]
LETTERS = "\u0120abcdefghijklmnopqrstuvwxyz"
"""As byte-level tokenizers write them; the first is the blank."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama to Mixtral, hidden": ("llama", {"gate_mode": "hidden"}),
    "llama to Mixtral, hidden_avg": ("llama", {"gate_mode": "hidden_avg"}),
    "llama to Mixtral, cheap_embed": ("llama", {"gate_mode": "cheap_embed"}),
    "llama to Mixtral, negative prompts": ("llama", {"negative": True}),
    "llama to Mixtral, residual_scale": ("llama", {"residual": 0.5}),
    "mistral to Mixtral": ("mistral", {}),
    "llama to Qwen MoE, shared expert": ("llama", {"architecture": "qwen", "shared": True}),
    "qwen2 to Qwen MoE, shared expert": ("qwen2", {"shared": True}),
    "qwen3 to Qwen3 MoE": ("qwen3", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "work/moe")
    parser.add_argument("--env", type=Path, default=ROOT / "work/mergekit-env")
    parser.add_argument("--out", type=Path, default=ROOT / "results/moe.md")
    asked = parser.parse_args()
    shutil.rmtree(asked.work, ignore_errors=True)
    asked.work.mkdir(parents=True)
    write_models(asked.work)
    jobs = []
    for i, (kind, more) in enumerate(CASES.values()):
        path = asked.work / f"{i}.yaml"
        path.write_text(json.dumps(document(asked.work, kind, **more)))
        for dtype in ("bfloat16", "float32"):
            out = asked.work / f"theirs-{i}-{dtype}"
            jobs.append({"config": str(path), "out": str(out), "dtype": dtype})
    (asked.work / "jobs.json").write_text(json.dumps(jobs))
    subprocess.run(
        [asked.env / "bin/python", __file__, "--inside", asked.work / "jobs.json"],
        check=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    rows = [row(asked.work, i, title) for i, title in enumerate(CASES)]
    asked.out.write_text(page(rows))
    print(asked.out.read_text())


def inside(jobs: Path) -> None:
    """Run mergekit-moe on each job; in mergekit's environment."""
    import torch
    import yaml
    from mergekit.merge import MergeOptions
    from mergekit.moe import router
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.scripts.moe import build

    load = router.AutoModelForCausalLM.from_pretrained
    for job in json.loads(jobs.read_text()):

        def loaded(*given: Any, job: Any = job, **named: Any) -> Any:
            return load(*given, **{**named, "torch_dtype": getattr(torch, job["dtype"])})

        router.AutoModelForCausalLM.from_pretrained = loaded
        config = MoEMergeConfig.model_validate(yaml.safe_load(Path(job["config"]).read_text()))
        options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
        build(config, job["out"], options, device="cpu")


def write_models(work: Path) -> None:
    """A base and two experts of each kind, with a tokenizer of letters: transformers reads files
    of some kinds its own way, and bytes all alike."""
    sys.path.insert(0, str(ROOT.parent / "tests/moe"))
    from tiny_siblings import KINDS, dense

    for kind in KINDS:
        for seed in range(3):
            more = {"sliding_window": None} if kind == "mistral" else {}
            model = dense(kind, work / f"{kind}-{seed}", seed, **more)
            path = model / "tokenizer.json"
            tokenizer = json.loads(path.read_text())
            words = ["<unk>", "<s>", "</s>", *LETTERS]
            vocabulary = {w: i for i, w in enumerate(words)}
            tokenizer["model"] = {"type": "BPE", "vocab": vocabulary, "merges": []}
            plain = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
            tokenizer["pre_tokenizer"] = {"type": "ByteLevel", **plain}
            path.write_text(json.dumps(tokenizer))


def document(
    work: Path,
    kind: str,
    *,
    shared: bool = False,
    negative: bool = False,
    residual: float | None = None,
    **more: Any,
) -> dict[str, Any]:
    experts: list[dict[str, Any]] = [
        {"source_model": str(work / f"{kind}-{i + 1}"), "positive_prompts": PROMPTS[i]}
        for i in range(2)
    ]
    if negative:
        experts[1]["negative_prompts"] = PROMPTS[2]
    if residual is not None:
        experts[0]["residual_scale"] = residual
    found = {
        "base_model": str(work / f"{kind}-0"),
        "dtype": "float32",
        "experts": experts,
        **more,
    }
    if shared:
        # mergekit opens the base and the experts only: another shared expert stops it.
        third = {"source_model": str(work / f"{kind}-0"), "positive_prompts": PROMPTS[2]}
        found["shared_experts"] = [third]
    return found


def row(work: Path, index: int, title: str) -> list[str]:
    """One line of the table: largest differences."""
    import torch

    import zoo

    ours = work / f"ours-{index}"
    with zoo.Registry(str(work / "none.db"), create=False) as registry:
        registry.upcycle(work / f"{index}.yaml", out=ours)
    mine, my_logits = loaded(ours)
    cells = [title]
    for dtype in ("bfloat16", "float32"):
        theirs, their_logits = loaded(work / f"theirs-{index}-{dtype}")
        gates = [n for n in mine if n.endswith("gate.weight")]
        rest = [n for n in mine if n not in gates]
        cells.append(f"{max(distance(mine[n], theirs[n]) for n in gates):.1e}")
        if dtype == "float32":
            cells.append(f"{max(distance(mine[n], theirs[n]) for n in rest):.1e}")
            cells.append(f"{distance(my_logits, their_logits):.1e}")
            only = sorted(theirs.keys() - mine.keys())
            zeros = all(not torch.any(theirs[n]) for n in only)
            cells.append(f"{len(only)} biases of zeros" if only and zeros else str(len(only)))
    return cells


def loaded(directory: Path) -> tuple[dict[str, Any], Any]:
    """All tensors as transformers has them in memory, and logits."""
    import torch
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"], (directory, report["missing_keys"])
    assert not report["unexpected_keys"], (directory, report["unexpected_keys"])
    with torch.no_grad():
        said = model(torch.tensor([[1, 5, 9, 4, 20, 7]])).logits
    return model.state_dict(), said


def distance(a: Any, b: Any) -> float:
    return float((a - b).abs().max() / b.abs().max())


def page(rows: list[list[str]]) -> str:
    from importlib.metadata import version

    import torch
    import transformers

    lines = [
        "# The same mixture of experts by mergekit-moe and by zoo",
        "",
        f"mergekit 0.1.5, zoo {version('zoo-registry')}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, models of 16 by 24 in three layers, float32. Written by "
        "`benchmarks/moe_against_mergekit.py`. Differences are the largest of an element, relative "
        "to the largest of its tensor, of all tensors as transformers has them after loading.",
        "",
        "| case | gates, its base in bfloat16 | gates, its base in float32 | all other tensors "
        "| logits, float32 | tensors only mergekit writes |",
        "|---|---:|---:|---:|---:|---:|",
        *("| " + " | ".join(cells) + " |" for cells in rows),
        "",
        "mergekit runs the base in bfloat16 whatever the models are; with the type of zoo, which "
        "is float32, the gates agree to rounding. `hidden_avg` of prompts of equal length: with "
        "others, mergekit's mean counts padding as tokens. mergekit drops Mistral's sliding "
        "window, so the models here have none. A shared expert that is neither base nor expert "
        "stops mergekit (`NoneType` has no `get_tensor`); here it is the base.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]))
    else:
        main()
