"""Call fusion_bench's own functions on checkpoints; the Python is that of its own environment.

    python fusion_bench_functions.py MODELS OUT

MODELS holds base.safetensors and expert-1 to expert-3; OUT gets NAME.safetensors for each function,
a whole merged model, or NAME-TASK where the function makes one model per task. Prints a JSON
object: name -> the error of those that did not run. Functions alone, since the classes around them
load data and models from the Hub.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from fusion_bench.method.dare.utils import param_random_drop_
from fusion_bench.method.emr_merging.utils import emr_merge
from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
from fusion_bench.method.magmax.magmax import _magmax_select
from fusion_bench.method.model_stock import model_stock
from fusion_bench.method.slerp.slerp_utils import slerp
from fusion_bench.method.tall_mask.utils import generate_task_masks
from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
    compute_and_sum_svd_mem_reduction,
)
from fusion_bench.method.ties_merging.ties_merging_utils import (
    state_dict_to_vector,
    ties_merging,
    vector_to_state_dict,
)
from fusion_bench.method.wudi.wudi import wudi_merging
from fusion_bench.utils.state_dict_arithmetic import state_dict_add, state_dict_mul, state_dict_sum
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]


class Functions:
    """What each of fusion_bench's methods makes of one base and its experts."""

    def __init__(self, base: State, experts: list[State]) -> None:
        self.base, self.experts = base, experts
        self.deltas = [{k: e[k] - base[k] for k in base} for e in experts]

    def plus(self, delta: State, scale: float = 1.0) -> State:
        made: State = state_dict_add(self.base, state_dict_mul(delta, scale))
        return made

    def flat(self) -> torch.Tensor:
        return torch.stack([state_dict_to_vector(d) for d in self.deltas])

    def unflat(self, vector: torch.Tensor) -> State:
        made: State = vector_to_state_dict(vector, self.base)
        return {k: v.clone() for k, v in made.items()}

    def task_arithmetic(self) -> dict[str, State]:
        return {"task_arithmetic": self.plus(state_dict_sum(self.deltas), 0.3)}

    def ties(self) -> dict[str, State]:
        return {
            f"ties {fuse}": self.plus(self.unflat(ties_merging(self.flat(), 0.2, fuse)))
            for fuse in ("mean", "sum", "max")
        }

    def dare(self) -> dict[str, State]:
        torch.manual_seed(0)
        delta = {k: v.clone() for k, v in self.deltas[0].items()}
        for parameter in delta.values():
            param_random_drop_(parameter, 0.7, rescale=True)
        return {"dare": self.plus(delta)}

    def magmax(self) -> dict[str, State]:
        return {"magmax": self.plus(_magmax_select(self.deltas), 0.5)}

    def emr(self) -> dict[str, State]:
        shared, masks, rescalers = emr_merge(self.deltas)
        return {
            f"emr-{t + 1}": self.plus(
                {k: shared[k] * masks[k][t] * rescalers[t].double() for k in shared}
            )
            for t in range(len(self.deltas))
        }

    def tall_masks(self) -> dict[str, State]:
        flat = self.flat()
        base = state_dict_to_vector(self.base)
        masks = generate_task_masks(flat, flat + base, base, tall_mask_lambda=0.4)
        total = flat.sum(0)
        return {
            f"tall_masks-{t + 1}": self.plus(self.unflat(total * mask))
            for t, mask in enumerate(masks)
        }

    def tsv(self) -> dict[str, State]:
        merged = compute_and_sum_svd_mem_reduction(self.deltas, accelerator="cpu")
        return {"tsv": self.plus(merged)}

    def iso_c(self) -> dict[str, State]:
        return {"iso_c": self.plus(iso_c(self.deltas, accelerator="cpu"))}

    def iso_cts(self) -> dict[str, State]:
        return {"iso_cts": self.plus(iso_cts(self.deltas, 0.8, accelerator="cpu"))}

    def wudi(self) -> dict[str, State]:
        merged = wudi_merging(self.deltas, accelerator="cpu", iter_num=300)
        return {"wudi": self.plus({k: v.detach() for k, v in merged.items()})}

    def model_stock(self) -> dict[str, State]:
        """With the constant that it adds to denominators, and without."""
        a, b = self.experts[:2]
        made = {}
        for eps in (model_stock.EPS, 0.0):
            model_stock.EPS = eps
            ratio = model_stock.compute_ratio(model_stock.compute_angle(a, b, self.base))
            name = f"model_stock EPS={eps:g}"
            made[name] = model_stock.merge_weights(a, b, self.base, ratio)
        return made

    def slerp(self) -> dict[str, State]:
        a, b = self.experts[:2]
        return {"slerp": {k: slerp(0.3, a[k], b[k]) for k in a}}


def main(models: Path, out: Path) -> None:
    base = load_file(models / "base.safetensors")
    experts = [load_file(models / f"expert-{i}.safetensors") for i in (1, 2, 3)]
    failed = {}
    for name, function in vars(Functions).items():
        if name in ("__init__", "plus", "flat", "unflat") or not isinstance(function, Callable):
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):
                made = function(Functions(base, experts))
        except Exception as error:  # whatever it raises is the finding
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        for label, state in made.items():
            save_file({k: v.contiguous() for k, v in state.items()}, out / f"{label}.safetensors")
    print(json.dumps(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
