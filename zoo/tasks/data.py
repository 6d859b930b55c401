"""A task whose data fits in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from zoo.errors import InvalidTask, NotFound, did_you_mean
from zoo.task import Batch, Task

if TYPE_CHECKING:
    import torch

    from zoo.records import MetricValue
    from zoo.sample import Sample
    from zoo.tasks.examples import Examples


class Normalization(NamedTuple):
    """(inputs - mean) / std, each per channel, or one number for all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class DataTask(Task):
    """A named data set of labels or tokens, in memory; nothing is read until it is asked for.

    Of labels, a model gives logits of shape (n, classes), and targets are (n,); of tokens, logits
    are (n, t, vocabulary), and targets (n, t).

    Args:
        read: gives the examples of a split; called once for each.
        normalize: applied to the inputs after all else.
        digests: of splits as delivered; data that does not agree is refused.
        mend: how to mend data that is not there or has changed; ends messages about that.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[str], Examples],
        *,
        splits: Sequence[str] = ("train", "test"),
        labels: Sequence[str] = (),
        license: str | None = None,
        normalize: Normalization | None = None,
        digests: Mapping[str, str] | None = None,
        mend: str = "",
    ) -> None:
        self.name = name
        self.splits: tuple[str, ...] = tuple(splits)
        self.labels: tuple[str, ...] = tuple(labels)
        self.license = license
        self.normalize = normalize
        self._read = read
        self._expected = dict(digests or {})
        self._mend = mend
        self._kept: dict[str, Examples] = {}
        self._digests: dict[str, str] = {}

    def raw(self, split: str) -> Examples:
        """The examples of a split before normalization; read anew at each call.

        Raises:
            NotFound: there is no such split.
            InvalidTask: the data is missing or damaged.
        """
        if split not in self.splits:
            raise NotFound(
                f"Task `{self.name}` has no split `{split}`.",
                how=did_you_mean(split, self.splits),
                task=self.name,
                split=split,
            )
        try:
            found = self._read(split)
        except FileNotFoundError as e:
            raise InvalidTask(
                f"The data of task `{self.name}` is not there: `{e.filename}` does not exist.",
                "A task reads its data where it was declared to be.",
                self._mend,
                task=self.name,
                path=e.filename,
            ) from e
        except OSError as e:
            raise InvalidTask(
                f"The data of task `{self.name}` cannot be read: `{e.filename}`, {e.strerror}.",
                how=self._mend,
                task=self.name,
                path=e.filename,
            ) from e
        found = found._replace(labels=self.labels or found.labels)
        return found.checked(f"Split `{split}` of task `{self.name}`")

    def tensors(self, split: str) -> Batch:
        """All inputs (n, ...) and targets (n, ...) of a split, as a model gets them; kept.

        Raises:
            NotFound: there is no such split.
            InvalidTask: the data is missing, damaged, or not what its digest says.
        """
        if split not in self._kept:
            found = self.raw(split)
            if self.normalize is not None:
                found = found._replace(inputs=self._normalized(found.inputs))
            digest = found.digest
            expected = self._expected.get(split, digest)
            if digest != expected:
                raise InvalidTask(
                    f"The data of split `{split}` of task `{self.name}` has changed:",
                    f"its digest is {digest}, and {expected} is known.",
                    self._mend,
                    task=self.name,
                    split=split,
                    digest=digest,
                    expected=expected,
                )
            self._kept[split], self._digests[split] = found, digest
        kept = self._kept[split]
        return kept.inputs, kept.targets

    def digest(self, split: str) -> str:
        self.tensors(split)
        return self._digests[split]

    def size(self, split: str) -> int:
        return len(self.tensors(split)[1])

    def batches(self, split: str, size: int = 256) -> Iterator[Batch]:
        inputs, targets = self.tensors(split)
        for start in range(0, len(targets), size):
            yield inputs[start : start + size], targets[start : start + size]

    def examples(self, split: str, indices: torch.Tensor) -> Batch:
        inputs, targets = self.tensors(split)
        return inputs[indices], targets[indices]

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy over examples and tokens, in nats, shape ()."""
        return super().loss(outputs.flatten(0, -2), targets.flatten())

    def evaluate(self, module: torch.nn.Module, sample: Sample) -> list[MetricValue]:
        """Scores of labels, or of tokens; see `scores` and `token_scores` in `zoo.measuring`."""
        from zoo.measuring.token_scores import scores_of_tokens

        if self.tensors(sample.split)[1].ndim == 1:
            return super().evaluate(module, sample)
        return scores_of_tokens(self, module, sample)

    def _normalized(self, inputs: torch.Tensor) -> torch.Tensor:
        import torch

        assert self.normalize is not None
        rest = (1,) * (inputs.ndim - 2)
        channels = {1, inputs.shape[1]} if inputs.ndim > 1 else {1}
        if not inputs.is_floating_point() or {len(v) for v in self.normalize} - channels:
            raise InvalidTask(
                f"The inputs of task `{self.name}` cannot be normalized:",
                f"{len(self.normalize.mean)} means and {len(self.normalize.std)} deviations for "
                f"inputs of shape {tuple(inputs.shape)}, type {inputs.dtype}.",
                "Give one number, or one for each channel.",
                task=self.name,
            )
        mean, std = (
            torch.tensor(v, dtype=torch.float32).view(1, -1, *rest) for v in self.normalize
        )
        return (inputs - mean) / std
