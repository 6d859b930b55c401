"""Trains a module on a task by a plan, the same way for the same seed.

    record = train(module, task, TrainingPlan(lr=0.05, epochs=20, batch=64), seed=0)

What is drawn, and by which seed:

    initial weights                 `fresh(..., seed)`
    order of the examples, dropout  `seed` and the number of the epoch
    which examples, noisy labels    `plan.data_seed`: one data set for a whole population

On one machine, with one number of threads, the same module, plan and seed give the same weights to
the bit, and a run that was stopped between epochs and resumed gives those too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import (
    GateFailed,
    IncompatibleModels,
    InvalidCheckpoint,
    InvalidRecipe,
    did_you_mean,
)
from zoo.measuring.scores import check_outputs
from zoo.progress import NoProgress, Progress

if TYPE_CHECKING:
    import torch

    from zoo.task import Task

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "onecycle", "step"]

VERSION = "1.0.0"
"""Of what training computes; part of what says that two trainings are the same."""
RISE = 0.3
"""Share of the steps in which `onecycle` rises."""
FIRST, LAST = 1 / 25, 1 / 250_000
"""Learning rates at which `onecycle` begins and ends, as parts of its highest."""
DROPS = (0.5, 0.75)
"""Shares of the steps after which `step` divides the learning rate by 10."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How a module is trained: optimizer, schedule, data.

    Raises:
        InvalidRecipe: a value is out of its range, or of another type.
    """

    optimizer: Optimizer = "sgd"
    lr: float = 0.05
    """Highest learning rate."""
    momentum: float = 0.9
    """Of SGD; the first beta of Adam."""
    weight_decay: float = 0.0
    """Added to the gradient; of `adamw`, taken from the weights."""
    schedule: Schedule = "constant"
    """`constant`; `cosine` to 0; `onecycle`: up for 30 % of the steps, then down to 0; `step`: a
    tenth after half, and again after three quarters of the steps."""
    epochs: int = 10
    batch: int = 64
    """Examples per step; a last batch of one example joins the one before it."""
    data: float = 1.0
    """Share of the training examples, more than 0 and at most 1; at least one example."""
    label_noise: float = 0.0
    """Share of them that get a wrong label, drawn evenly from the others; 0 to 1."""
    max_steps: int | None = None
    """Stop after so many steps; the schedule ends there too."""
    split: str = "train"
    data_seed: int = 0
    """Draws the examples and the noisy labels."""

    def __post_init__(self) -> None:
        for name, known in (("optimizer", get_args(Optimizer)), ("schedule", get_args(Schedule))):
            if (value := getattr(self, name)) not in known:
                raise _wrong(name, value, did_you_mean(str(value), known))
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if value is None and name == "max_steps":
                continue
            kinds = int if name in _WHOLE else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise _wrong(name, value, f"A {'whole ' if name in _WHOLE else ''}number it is.")
            if not (least <= value <= most and math.isfinite(value)):
                span = f"{least} to {most}" if most < math.inf else f"at least {least}"
                raise _wrong(name, value, f"It is {span}.")
        if not isinstance(self.split, str):
            raise _wrong("split", self.split, "It is the name of a part of the data.")
        for name in ("lr", "data"):
            if not getattr(self, name):
                raise _wrong(name, 0, "It is more than 0.")

    @classmethod
    def read(cls, settings: Mapping[str, Any], where: str = "train") -> TrainingPlan:
        """A plan from plain data, such as a part of a YAML file.

        Raises:
            InvalidRecipe: an unknown key, or a value that does not fit.
        """
        known = tuple(f.name for f in fields(cls))
        for key in settings:
            if key not in known:
                raise InvalidRecipe(
                    f"Unknown key `{key}` in `{where}`.", how=did_you_mean(str(key), known), key=key
                )
        return cls(**settings)

    def examples(self, size: int) -> int:
        """Examples trained on, of a split of so many."""
        return max(1, round(self.data * size))

    def steps(self, examples: int) -> int:
        """Steps of a training on so many examples."""
        full, rest = divmod(examples, self.batch)
        all_of_them = self.epochs * max(1, full + (rest > 1))
        return min(all_of_them, self.max_steps or all_of_them)


_BOUNDS: tuple[tuple[str, float, float], ...] = (
    ("lr", 0, math.inf),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, math.inf),
    ("epochs", 1, 1_000_000),
    ("batch", 1, math.inf),
    ("data", 0, 1),
    ("label_noise", 0, 1),
    ("max_steps", 1, math.inf),
    ("data_seed", 0, 2**63 - 1),
)
_WHOLE = ("epochs", "batch", "max_steps", "data_seed")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One pass over the training data."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over its batches of the loss before each step, in the task's unit; nats for labels."""
    accuracy: float | None
    """Share of right answers before each step; None for a task of no labels."""
    lr: float
    """Of its last step."""
    steps: int
    """Since the beginning."""
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What a training did."""

    plan: TrainingPlan
    seed: int
    task: str
    data: str
    """Digest of the split; empty where it is unknown."""
    examples: int
    """Trained on."""
    epochs: tuple[EpochRecord, ...]
    train_loss: float
    """On the training examples with the labels they were trained with, at the end, in eval mode."""
    train_accuracy: float | None
    """Likewise; None for a task of no labels."""
    device: str
    threads: int
    """Of torch."""

    @property
    def steps(self) -> int:
        return self.epochs[-1].steps

    @property
    def seconds(self) -> float:
        return sum(e.seconds for e in self.epochs)

    def as_dict(self, epochs: int | None = None) -> dict[str, Any]:
        """All of it as plain data, with `steps` and `seconds`; or what is known of its first
        epochs, without how it ended."""
        done = self.epochs[:epochs]
        found = asdict(self) | {"epochs": [asdict(e) for e in done], "steps": done[-1].steps}
        found["seconds"] = sum(e.seconds for e in done)
        if epochs is not None:
            del found["train_loss"], found["train_accuracy"]
        return found


OnEpoch = Callable[[EpochRecord, "torch.nn.Module"], None]


def fresh(build: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """A module whose initial weights are drawn by a seed, as its parts draw them when they are
    made; the caller's random state stays as it is."""
    with _random_state():
        _seed(seed)
        return build()


def train(
    module: torch.nn.Module,
    task: Task,
    plan: TrainingPlan,
    *,
    seed: int,
    device: str = "cpu",
    on_epoch: OnEpoch | None = None,
    progress: Progress | None = None,
    state: Path | None = None,
) -> TrainingRecord:
    """Train a module in place; it is left in eval mode on the device.

    The training examples are held in memory. Parameters with `requires_grad=False` stay as they
    are.

    Args:
        on_epoch: told of each epoch when it has ended, with the module in eval mode, before the
            state is saved: at least once for each epoch, however often a run is resumed.
        state: file that keeps what is needed to go on after the last epoch; a file that is there is
            resumed from, and must be of the same plan, seed and task.
    Raises:
        GateFailed: the loss is not finite.
        IncompatibleModels: the module has not one output for each label.
        InvalidCheckpoint: no examples; a state that is damaged, or of another training.
        InvalidRecipe: the plan does not fit the task.
    """
    import torch

    progress = progress or NoProgress()
    x, y = training_data(task, plan)
    digest = task.digest(plan.split)
    total = plan.steps(len(x))
    key = {"plan": asdict(plan), "seed": seed, "task": task.name, "data": digest}

    module.to(device)
    optimizer = _optimizer(module, plan)
    done: list[EpochRecord] = []
    if state is not None and state.exists():
        done = _resume(state, module, optimizer, key)
    step = done[-1].steps if done else 0
    progress.start(total, "train")
    progress.advance(step)
    try:
        while step < total:
            epoch = len(done) + 1
            with _random_state(device):
                _seed(seed, epoch)
                record = _epoch(module, task, plan, optimizer, x, y, epoch, step, total, progress)
            step = record.steps
            done.append(record)
            module.eval()
            if on_epoch is not None:
                on_epoch(record, module)
            if state is not None:
                _save(state, module, optimizer, key, done)
    finally:
        progress.done()
    module.eval()
    loss, accuracy = _at_the_end(module, task, x, y, device)
    return TrainingRecord(
        plan=plan,
        seed=seed,
        task=task.name,
        data=digest,
        examples=len(x),
        epochs=tuple(done),
        train_loss=loss,
        train_accuracy=accuracy,
        device=device,
        threads=torch.get_num_threads(),
    )


def training_data(task: Task, plan: TrainingPlan) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples a plan trains on, with the labels it trains with, in the order of the split.

    Raises:
        InvalidCheckpoint: the split has no examples.
        InvalidRecipe: label noise for a task of no labels.
    """
    import torch

    generator = torch.Generator().manual_seed(plan.data_seed)
    x, y = _examples(task, plan, generator)
    if not len(x):
        raise InvalidCheckpoint(f"Split `{plan.split}` of task `{task.name}` has no examples.")
    if plan.label_noise:
        classes = len(task.labels)
        if classes < 2:
            raise InvalidRecipe(
                f"Task `{task.name}` has no labels to make noise in.", how="Leave out label_noise."
            )
        wrong = torch.randperm(len(y), generator=generator)[: round(plan.label_noise * len(y))]
        shift = torch.randint(1, classes, (len(wrong),), generator=generator)
        y = y.clone()
        y[wrong] = (y[wrong] + shift) % classes
    return x, y


def learning_rate(plan: TrainingPlan, step: int, total: int) -> float:
    """Learning rate of a step, counted from 0, of a training of `total` steps.

    Source: onecycle is Smith & Topin 2018, arXiv:1708.07120, as `torch.optim.lr_scheduler` has it
        with cosines.
    Departs: the momentum stays as it is.
    """
    if plan.schedule == "cosine":
        return plan.lr * _cosine(1, 0, step / total)
    if plan.schedule == "step":
        return plan.lr * 0.1 ** sum(step >= share * total for share in DROPS)
    if plan.schedule == "onecycle":
        top, end = RISE * total - 1, total - 1
        if step <= top and top > 0:
            return plan.lr * _cosine(FIRST, 1, step / top)
        return plan.lr * _cosine(1, LAST, (step - top) / (end - top) if end > top else 0)
    return plan.lr


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def _examples(
    task: Task, plan: TrainingPlan, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if plan.split not in task.splits:
        raise InvalidRecipe(
            f"Task `{task.name}` has no split `{plan.split}`.",
            how=did_you_mean(plan.split, list(task.splits)),
            split=plan.split,
        )
    size = task.size(plan.split)
    if plan.data < 1 and size:
        chosen = _some(size, plan, generator)
        if (found := task.examples(plan.split, chosen)) is not None:
            return found
    parts = list(task.batches(plan.split))
    if not parts:
        return torch.empty(0), torch.empty(0)
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    if plan.data < 1:
        chosen = _some(len(x), plan, generator)
        x, y = x[chosen], y[chosen]
    return x, y


def _some(size: int, plan: TrainingPlan, generator: torch.Generator) -> torch.Tensor:
    """A share of `size` places, in ascending order; a larger share holds a smaller one."""
    import torch

    return torch.randperm(size, generator=generator)[: plan.examples(size)].sort().values


def _optimizer(module: torch.nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    import torch

    weights = [p for p in module.parameters() if p.requires_grad]
    if not weights:
        raise IncompatibleModels("The module has no parameters to train.")
    if plan.optimizer == "sgd":
        return torch.optim.SGD(
            weights, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    betas = (plan.momentum, 0.999)
    return kind(weights, lr=plan.lr, betas=betas, weight_decay=plan.weight_decay)


def _epoch(
    module: torch.nn.Module,
    task: Task,
    plan: TrainingPlan,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    epoch: int,
    step: int,
    total: int,
    progress: Progress,
) -> EpochRecord:
    import torch

    began = time.perf_counter()
    device = next(module.parameters()).device
    order = torch.randperm(len(x))
    module.train()
    losses, right, seen, lr = 0.0, 0, 0, 0.0
    for places in _batches(order, plan.batch):
        if step == total:
            break
        lr = learning_rate(plan, step, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = x[places].to(device), y[places].to(device)
        outputs = module(inputs)
        if task.labels:
            check_outputs(task, outputs)
            right += int((outputs.argmax(1) == targets).sum())
        loss = task.loss(outputs, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise GateFailed(
                f"Training on `{task.name}` diverged: the loss is {value} in epoch {epoch}, "
                f"step {step + 1} of {total}.",
                f"The learning rate was {lr:g}, the batch {plan.batch}.",
                "Lower the learning rate, or make the batch larger.",
                epoch=epoch,
                step=step + 1,
                lr=lr,
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses += value * len(places)
        seen += len(places)
        step += 1
        progress.advance(1)
    return EpochRecord(
        epoch=epoch,
        loss=losses / seen,
        accuracy=right / seen if task.labels else None,
        lr=lr,
        steps=step,
        seconds=time.perf_counter() - began,
    )


def _batches(order: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Parts of `size`; a last one of a single example joins the one before: BatchNorm needs two."""
    import torch

    parts = list(torch.split(order, size))
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def _at_the_end(
    module: torch.nn.Module, task: Task, x: torch.Tensor, y: torch.Tensor, device: str
) -> tuple[float, float | None]:
    import torch

    loss, right = 0.0, 0
    with torch.inference_mode():
        for inputs, targets in zip(torch.split(x, 512), torch.split(y, 512), strict=True):
            outputs, targets = module(inputs.to(device)), targets.to(device)
            loss += float(task.loss(outputs, targets)) * len(inputs)
            right += int((outputs.argmax(1) == targets).sum()) if task.labels else 0
    if not math.isfinite(loss):
        raise GateFailed(
            f"Training on `{task.name}` diverged in its last step: the loss is {loss}.",
            how="Lower the learning rate, or make the batch larger.",
        )
    return loss / len(x), right / len(x) if task.labels else None


@contextmanager
def _random_state(device: str = "cpu") -> Iterator[None]:
    """Leaves torch's random state as it was."""
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        yield


def _seed(seed: int, epoch: int = 0) -> None:
    """Seed torch by a training's seed and an epoch, so that neighbours have nothing in common."""
    import hashlib

    import torch

    words = hashlib.sha256(f"zoo training {seed} {epoch}".encode()).digest()
    torch.manual_seed(int.from_bytes(words[:8], "big") >> 1)


def _save(
    path: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    key: Mapping[str, Any],
    done: list[EpochRecord],
) -> None:
    """Whole or not at all: written beside, then renamed."""
    import torch

    partial = path.with_name(path.name + ".partial")
    torch.save(
        {
            "key": dict(key),
            "module": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": [asdict(e) for e in done],
        },
        partial,
    )
    partial.replace(path)


def _resume(
    path: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    key: Mapping[str, Any],
) -> list[EpochRecord]:
    import torch

    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        epochs = [EpochRecord(**e) for e in saved["epochs"]]
    except Exception as error:  # torch raises half a dozen types
        raise InvalidCheckpoint(
            f"`{path}` is no state of a training that can be resumed.",
            how="Remove it to begin anew.",
            path=path,
        ) from error
    if saved["key"] != key:
        other = [k for k in key if saved["key"].get(k) != key[k]]
        raise InvalidCheckpoint(
            f"`{path}` is the state of another training:",
            f"its {', '.join(other)} differ.",
            "Remove it to begin anew.",
            path=path,
            differ=other,
        )
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    return epochs


def _wrong(name: str, value: Any, how: str) -> InvalidRecipe:
    return InvalidRecipe(f"`{name}` cannot be {value!r}.", how=how, key=name, value=value)
