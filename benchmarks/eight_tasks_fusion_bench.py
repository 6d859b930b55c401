"""Merge with fusion_bench's own algorithms; the Python is that of its own environment.

    python eight_tasks_fusion_bench.py MODELS OUT SETTINGS

MODELS holds base.safetensors and expert-1 to expert-N; SETTINGS is a JSON file, name -> parameters.
OUT gets NAME.safetensors for each merge, or NAME-TASK where there is a model for each task. Prints
a JSON object: name -> the error of those that did not run. Each is the class that fusion_bench's
command line runs, on modules that hold the tensors; EMR and TALL masks, whose classes are bound to
CLIP, are the functions inside.
"""

from __future__ import annotations

import contextlib
import json
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from fusion_bench.method.dare.task_arithmetic import DareTaskArithmetic
from fusion_bench.method.isotropic_merging.iso import (
    IsotropicMergingInCommonAndTaskSubspace,
    IsotropicMergingInCommonSubspace,
)
from fusion_bench.method.magmax.magmax import MagMaxAlgorithm
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.simple_average import SimpleAverageAlgorithm
from fusion_bench.method.task_arithmetic.task_arithmetic import TaskArithmeticAlgorithm
from fusion_bench.method.task_singular_vector.TSVM import TaskSingularVectorMerging
from fusion_bench.method.ties_merging.ties_merging import TiesMergingAlgorithm
from fusion_bench.method.wudi.wudi import WUDIMerging
from fusion_bench.modelpool import BaseModelPool
from fusion_bench_functions import Functions
from safetensors.torch import load_file, save_file
from torch import nn

State = dict[str, torch.Tensor]
ALGORITHMS = {
    "dare": DareTaskArithmetic,
    "iso_c": IsotropicMergingInCommonSubspace,
    "iso_cts": IsotropicMergingInCommonAndTaskSubspace,
    "linear": SimpleAverageAlgorithm,
    "magmax": MagMaxAlgorithm,
    "model_stock": ModelStock,
    "task_arithmetic": TaskArithmeticAlgorithm,
    "ties": TiesMergingAlgorithm,
    "tsv": TaskSingularVectorMerging,
    "wudi": WUDIMerging,
}


def holder(state: State) -> nn.Module:
    """A module whose parameters have the names and values of a checkpoint's tensors."""
    root = nn.Module()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, nn.Parameter(tensor.clone()))
    return root


def run(name: str, parameters: dict[str, Any], base: State, experts: list[State]) -> State:
    """The merged tensors of an algorithm."""
    models = {"_pretrained_": holder(base)}
    models |= {f"expert-{i}": holder(e) for i, e in enumerate(experts, 1)}
    torch.manual_seed(parameters.pop("seed", 0))
    made = ALGORITHMS[name](**parameters).run(BaseModelPool(deepcopy(models)))
    state: State = made.state_dict()
    return state


class PerTask(Functions):
    """The functions that give a model for each task, with their parameters."""

    def named(self, name: str, parameters: dict[str, Any]) -> dict[str, State]:
        if name == "emr":
            return self.emr()
        from fusion_bench.method.tall_mask.utils import generate_task_masks
        from fusion_bench.method.ties_merging.ties_merging_utils import state_dict_to_vector

        flat, base = self.flat(), state_dict_to_vector(self.base)
        masks = generate_task_masks(flat, flat + base, base, **parameters)
        total = flat.sum(0)
        return {
            f"{name}-{i}": self.plus(self.unflat(total * mask)) for i, mask in enumerate(masks, 1)
        }


def main(models: Path, out: Path, settings: Path) -> None:
    base = load_file(models / "base.safetensors")
    count = len(list(models.glob("expert-*.safetensors")))
    experts = [load_file(models / f"expert-{i}.safetensors") for i in range(1, count + 1)]
    failed = {}
    for label, asked in json.loads(settings.read_text()).items():
        name = label.partition("#")[0]
        try:
            with contextlib.redirect_stdout(sys.stderr):
                if name in ("emr", "tall_masks"):
                    made = PerTask(base, experts).named(name, asked)
                else:
                    made = {label: run(name, asked, base, experts)}
        except Exception as error:  # whatever it raises is the finding
            failed[label] = f"{type(error).__name__}: {error}"
            continue
        for file, state in made.items():
            kept = {k: v.detach().contiguous().float() for k, v in state.items()}
            save_file(kept, out / f"{file}.safetensors")
    print(json.dumps(failed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(Path, sys.argv[1:4]))
