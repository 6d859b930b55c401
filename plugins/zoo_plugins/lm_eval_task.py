"""Tasks of the lm-evaluation-harness, as `lm_eval:NAME`, where it is installed.

    zoo evaluate my-model --task lm_eval:hellaswag --samples 200

Models are those of transformers, with their tokenizer in the same directory. Tasks of your own, in
the harness's YAML, are found in the directory that `ZOO_LM_EVAL_TASKS` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zoo import MetricValue, Sample, Task, hookimpl
from zoo.errors import IncompatibleModels, NotFound, PluginError, did_you_mean

if TYPE_CHECKING:
    import torch

    from zoo.task import Batch

PREFIX = "lm_eval:"
TASKS_DIR = "ZOO_LM_EVAL_TASKS"
_NAMES = {"acc": "accuracy"}
"""What zoo calls a metric of the harness; others keep their names."""


class HarnessTask(Task):
    """A task, or group of tasks, of the harness; it brings its own data, prompts and metrics."""

    splits = ("test",)

    def __init__(self, name: str) -> None:
        self.name = name

    def batches(self, split: str, size: int = 256) -> Iterable[Batch]:
        raise PluginError(
            f"Task `{self.name}` gives no batches.",
            "The harness asks a model its own way.",
            "Evaluate models on it; to measure or merge by data, use another task.",
            task=self.name,
        )

    def evaluate(self, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
        """The harness's metrics, each with its standard error.

        `accuracy` is its `acc`. The split of a value is the harness's filter, empty for `none`.
        The sample's examples are the first ones, and its seed is all of the harness's seeds.

        Raises:
            IncompatibleModels: the module has no tokenizer to be found.
            NotFound: the harness has no such task.
        Source: Gao et al., "The language model evaluation harness", doi:10.5281/zenodo.10256836.
        """
        harness = _harness()
        from lm_eval.models.huggingface import HFLM
        from transformers import AutoTokenizer

        place = getattr(module, "name_or_path", "")
        if not place:
            raise IncompatibleModels(
                f"Task `{self.name}` is for models of transformers with a tokenizer.",
                f"`{type(module).__name__}` does not say where it was loaded from.",
                task=self.name,
            )
        asked = self.name.removeprefix(PREFIX)
        manager = harness.tasks.TaskManager(include_path=os.environ.get(TASKS_DIR))
        if asked not in manager.all_tasks:
            near = did_you_mean(asked, list(manager.all_tasks))
            raise NotFound(
                f"The harness has no task `{asked}`.",
                how=near if near.startswith("Did") else "List its tasks with `lm-eval ls tasks`.",
                task=self.name,
            )
        model = HFLM(
            pretrained=module,
            tokenizer=AutoTokenizer.from_pretrained(place),
            batch_size=sample.batch,
            device=sample.device,
        )
        # By keyword, zoo's modules give what transformers gives, and not the logits alone.
        hook = module.register_forward_pre_hook(_by_keyword, with_kwargs=True)
        try:
            found = harness.simple_evaluate(
                model=model,
                tasks=[asked],
                limit=sample.count,
                random_seed=sample.seed,
                numpy_random_seed=sample.seed,
                torch_random_seed=sample.seed,
                fewshot_random_seed=sample.seed,
                task_manager=manager,
                log_samples=False,
            )
        finally:
            hook.remove()
        return values(found["results"][asked])


def values(results: dict[str, Any]) -> list[MetricValue]:
    """The harness's `{"acc,none": 0.5, "acc_stderr,none": 0.1, ...}` as values."""
    found = []
    for key, value in results.items():
        name, comma, part = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results.get(f"{name}_stderr,{part}")
        found.append(
            MetricValue(
                _NAMES.get(name, name),
                float(value),
                split="" if part == "none" else part,
                stderr=float(error) if isinstance(error, int | float) else None,
            )
        )
    return found


def _by_keyword(
    module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), {**dict(zip(("input_ids",), given, strict=True)), **named} if given else named


def _harness() -> Any:
    try:
        import lm_eval
        import lm_eval.tasks
    except ImportError as e:
        raise PluginError(
            f"Tasks `{PREFIX}NAME` need the lm-evaluation-harness.",
            how='pip install "lm_eval[hf]"',
        ) from e
    return lm_eval


@hookimpl
def zoo_resolve_task(name: str) -> Task | None:
    return HarnessTask(name) if name.startswith(PREFIX) else None
