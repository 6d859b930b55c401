"""The families of `families.py`: published models, the data they are scored on, and the scores.

The checkpoints are read where they lie and copied nowhere, some being GPL-3.0.
"""

from __future__ import annotations

import gzip
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import family_networks as networks
import torch
from safetensors.torch import load_file

State = dict[str, torch.Tensor]
ROOT = Path(__file__).resolve().parent.parent


class Family(ABC):
    """Models of one shape with their tasks. Every score is better when higher."""

    name: str
    title: str
    """What it is and what the scores are, for the head of its table."""
    experts: Sequence[str]
    """Directories, in order."""
    base: str | None = None
    """Directory; None where the base is unknown, and the mean of the experts stands in for it."""
    tasks: Sequence[str]
    owners: Mapping[str, int]
    """Task -> the expert that was trained for it, by its place in `experts`."""
    fails_below: float | None = None
    """For families that cannot be merged: the summary that shows it."""
    digits = 2
    summary_name = "mean"

    def __init__(self, data: Path) -> None:
        self.data = data

    def read(self, directory: str) -> State:
        """The tensors that are merged."""
        return load_file(self.data / directory / "model.safetensors")

    @cached_property
    def expert_states(self) -> list[State]:
        return [self.read(e) for e in self.experts]

    @cached_property
    def base_state(self) -> State:
        """The base, or the mean of the experts (the first one's integer buffers)."""
        if self.base is not None:
            return self.read(self.base)
        return {
            name: torch.stack([e[name] for e in self.expert_states]).mean(0)
            if first.is_floating_point()
            else first
            for name, first in self.expert_states[0].items()
        }

    def agreement(self) -> float:
        """Mean cosine between the experts' deltas; needs a base and two experts."""
        names = [k for k, t in self.base_state.items() if t.is_floating_point()]
        deltas = torch.stack(
            [
                torch.cat([(e[k].double() - self.base_state[k].double()).flatten() for k in names])
                for e in self.expert_states
            ]
        )
        units = deltas / deltas.norm(dim=1, keepdim=True)
        count = len(units)
        return float(((units @ units.T).sum() - count) / (count * (count - 1)))

    def summary(self, scores: Mapping[str, float]) -> float:
        """The number that settings and methods are ranked by."""
        return sum(scores[task] for task in self.tasks) / len(self.tasks)

    @abstractmethod
    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        """The scores of one model on these tasks."""


class Upscalers(Family):
    """PSNR of four crops at five noise levels, as `examples/upscaler` has it."""

    experts = ("noise0", "noise1", "noise2", "noise3")
    base = "base-scale"
    tasks = ("clean", "q90", "q70", "q50", "q30")
    owners = {"clean": 0, "q90": 0, "q70": 1, "q50": 2, "q30": 3}

    def __init__(self, data: Path, architecture: str, folder: str, text: str) -> None:
        super().__init__(data / folder)
        self.name = folder
        self.title = (
            f"{text}: four fine-tunes of one base, each for stronger JPEG noise; PSNR in dB on "
            "four crops without JPEG and at quality 90 to 30."
        )
        self._forward = getattr(networks, architecture)

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        example = str(ROOT / "examples" / "upscaler")
        if example not in sys.path:
            sys.path.append(example)
        from upscaler_plugin import crop_names, load_crop, load_small, to_tensor

        weights = {k: v.float() for k, v in state.items()}
        scores = {}
        for task in tasks:
            found = []
            for crop in crop_names():
                small, full = to_tensor(load_small(crop, task)), to_tensor(load_crop(crop))
                with torch.inference_mode():
                    made = (self._forward(weights, small).clamp(0, 1) * 255).round() / 255
                found.append(-10 * (made - full).double().square().mean().log10())
            scores[task] = float(torch.stack(found).mean())
        return scores


class Splicing(Family):
    """What the DNA networks share: four genes of chromosome 22, and average precision."""

    folder: str
    context: int
    digits = 4

    def __init__(self, data: Path) -> None:
        super().__init__(data / self.folder)
        self._dna = data / "dna-splice"

    @cached_property
    def genes(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(one-hot bases with context, acceptors, donors) of each gene, read along its strand."""
        (sequence,) = self._dna.glob("*.fa.gz")
        with gzip.open(sequence, "rt") as file:
            bases = "".join(file.read().splitlines()[1:]).upper()
        first = int(sequence.name.split("_")[2]) + 1  # the genome position of bases[0], from 1
        (annotation,) = self._dna.glob("*.gff")
        exons: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for line in annotation.read_text().splitlines():
            fields = line.split("\t")
            if not line.startswith("#") and fields[2] == "exon":
                transcript = fields[8].split("transcript_id=")[-1]
                exons.setdefault((transcript, fields[6]), []).append(
                    (int(fields[3]) - first, int(fields[4]) - first)
                )
        return [
            _gene(bases, sorted(found), strand, self.context)
            for (_, strand), found in exons.items()
            if len(found) > 1
        ]


def _gene(
    bases: str, exons: Sequence[tuple[int, int]], strand: str, context: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """200 bases around a gene are scored, and `context` more are read."""
    start = exons[0][0] - 200 - context
    text = bases[max(0, start) : exons[-1][1] + 201 + context]
    start = max(0, start)
    left = [a - start for a, _ in exons[1:]]
    right = [b - start for _, b in exons[:-1]]
    if strand == "-":
        text = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
        left, right = (
            [len(text) - 1 - p for p in right],
            [len(text) - 1 - p for p in left],
        )
    codes = torch.tensor(["ACGT".find(c) for c in text])
    onehot = torch.stack([codes == i for i in range(4)])[None].float()
    sites = torch.zeros(2, len(text))
    sites[0, left] = 1
    sites[1, right] = 1
    acceptors, donors = sites[:, context : len(text) - context]
    return onehot, acceptors, donors


def average_precision(score: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean precision at each true position, from the highest score down."""
    hit = truth[torch.argsort(score, descending=True, stable=True)].double()
    precision = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
    return float((precision * hit).sum() / hit.sum())


class Pangolin(Splicing):
    name = folder = "pangolin-splice"
    title = (
        "Pangolin: eight fine-tunes of one unpublished base, the mean of the experts in its place. "
        "The trunk is merged and every task keeps its own head; average precision of the head's "
        "score at the 80 splice sites of four genes."
    )
    context = networks.PANGOLIN_CONTEXT
    tissues = ("heart", "liver", "brain", "testis")
    tasks = tuple(f"{t}-{what}" for t in tissues for what in ("psplice", "usage"))
    experts = tuple(f"r1-{task}" for task in tasks)
    owners = {task: i for i, task in enumerate(tasks)}

    def read(self, directory: str) -> State:
        """The trunk: without the eight heads."""
        state = super().read(directory)
        return {k: v for k, v in state.items() if not k.startswith("conv_last")}

    @cached_property
    def heads(self) -> list[State]:
        """Each expert's own head."""
        return [
            {
                k: v
                for k, v in load_file(self.data / e / "model.safetensors").items()
                if k.startswith(f"conv_last{i + 1}.")
            }
            for i, e in enumerate(self.experts)
        ]

    @cached_property
    def config(self) -> dict[str, Any]:
        text = (self.data / self.experts[0] / "config.json").read_text()
        config: dict[str, Any] = json.loads(text)
        return config

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        found: dict[str, list[torch.Tensor]] = {task: [] for task in tasks}
        with torch.inference_mode():
            for onehot, _, _ in self.genes:
                features = networks.pangolin_trunk(state, self.config, onehot)
                for task in tasks:
                    own = self.owners[task]
                    found[task].append(networks.pangolin_head(self.heads[own], own + 1, features))
        truth = torch.cat([acceptors + donors for _, acceptors, donors in self.genes])
        return {task: average_precision(torch.cat(found[task]), truth) for task in tasks}


class UnrelatedSplicing(Splicing):
    name = folder = "openspliceai-80nt"
    title = (
        "OpenSpliceAI: two networks for one task, trained from different starts, the mean of the "
        "experts in place of a base; average precision at the splice sites of four genes."
    )
    context = networks.OPENSPLICEAI_CONTEXT
    experts = ("human-s10", "human-s11")
    tasks = ("acceptors", "donors")
    owners = {"acceptors": 0, "donors": 1}
    fails_below = 0.68  # nine tenths of what the experts score

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        with torch.inference_mode():
            made = [networks.openspliceai(state, onehot) for onehot, _, _ in self.genes]
        return {
            task: average_precision(
                torch.cat([m[1 + side] for m in made]), torch.cat([g[1 + side] for g in self.genes])
            )
            for side, task in enumerate(("acceptors", "donors"))
            if task in tasks
        }


class Between(Family):
    """Two models and no data: how much of each is in what lies between them.

    The scores say how near a merge is to either end, in units of their distance: 1 there, 0 as far
    as the other end, negative beyond. The summary is that of the worse end, at best one half on a
    straight line.
    """

    tasks: tuple[str, ...] = ("like the first", "like the second")
    owners: Mapping[str, int] = {}
    digits = 3
    summary_name = "worse end"

    def summary(self, scores: Mapping[str, float]) -> float:
        return min(scores[task] for task in Between.tasks)

    def near(self, here: torch.Tensor, ends: Sequence[torch.Tensor]) -> dict[str, float]:
        distance = (ends[1] - ends[0]).double().norm()
        return {
            task: float(1 - (here - end).double().norm() / distance)
            for task, end in zip(Between.tasks, ends, strict=True)
        }


class Potentials(Between):
    """Interatomic potentials, each an ensemble of three networks, merged as one model."""

    def __init__(self, data: Path, ends: Mapping[str, Sequence[str]], related: bool) -> None:
        super().__init__(data / "ani-potentials")
        self._members = ends
        first, second = ends
        self.name = f"{first} and {second}"
        if related:
            self.base, self.experts = first, (second,)
            kind = "a base and its fine-tune, half of the tensors frozen"
        else:
            self.experts = (first, second)
            self.fails_below = 0.0  # then no merge is as near to one end as the other end is
            kind = "trained from different starts"
        self.title = (
            f"ANI potentials `{first}` (first) and `{second}` (second), {kind}. No reference "
            "energies are at hand; compared are the energies that the models give to 500 made-up "
            "environments of each element: 1 is agreement with that end, 0 is as far from it as "
            "the other end."
        )

    def read(self, directory: str) -> State:
        return {
            f"{number}.{name}": tensor
            for number, member in enumerate(self._members[directory])
            for name, tensor in super(Potentials, self).read(member).items()
        }

    @cached_property
    def environments(self) -> dict[str, torch.Tensor]:
        """Sparse and not negative, as symmetry functions are."""
        draw = torch.Generator().manual_seed(0)
        return {e: torch.rand(500, 384, generator=draw).pow(8) for e in "HCNO"}

    def energies(self, state: State) -> torch.Tensor:
        """Of all members: the mean of an ensemble would hide what became of each."""
        found = []
        for number in {name.partition(".")[0] for name in state}:
            prefix = f"{number}."
            member = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            with torch.inference_mode():
                found += [networks.ani_atoms(member, e, x) for e, x in self.environments.items()]
        return torch.cat(found)

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        ends = [self.energies(self.read(end)) for end in self._members]
        return self.near(self.energies(state), ends)


class Crystals(Between):
    """CHGNet's training checkpoints: neither data nor a small forward pass, so weights alone."""

    name = "chgnet-potentials"
    base = "chgnet_0.3.0_e29f68s314m37.pth.tar"
    experts = ("chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",)
    title = (
        "CHGNet 0.3.0 (first) and its transfer learning to r2SCAN (second). No data and no forward "
        "pass here; compared are the weights: 1 is equal to that end, 0 is as far from it as the "
        "other end. *frozen kept*: of the tensors that both have bit for bit, the share that the "
        "merge has too."
    )
    tasks = (*Between.tasks, "frozen kept")

    def __init__(self, data: Path) -> None:
        super().__init__(data / self.name)

    def read(self, directory: str) -> State:
        loaded = torch.load(self.data / directory, map_location="cpu", weights_only=True)
        return dict(loaded["model"]["state_dict"])

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        base, expert = self.base_state, self.expert_states[0]
        names = [k for k in base if base[k].is_floating_point()]
        here, *ends = (torch.cat([s[k].flatten() for k in names]) for s in (state, base, expert))
        frozen = [k for k in names if torch.equal(base[k], expert[k])]
        kept = sum(torch.equal(state[k], base[k]) for k in frozen) / len(frozen)
        return {**self.near(here, ends), "frozen kept": kept}


def families(data: Path) -> list[Family]:
    numbers = range(3)
    dft = {"ani1x": [f"ani1x-m{i}" for i in numbers]}
    coupled_cluster = {"ani1ccx": [f"ani1ccx-m{i}" for i in numbers]}
    rotated = {"ani1x rotated": [f"ani1x-m{(i + 1) % 3}" for i in numbers]}
    return [
        Upscalers(data, "upresnet10", "w2x-upresnet10", "UpResNet10, drawings and photographs"),
        Upscalers(data, "upconv7", "w2x-upconv7-photo", "UpConv7, photographs, float16 weights"),
        Pangolin(data),
        Potentials(data, dft | coupled_cluster, related=True),
        Crystals(data),
        UnrelatedSplicing(data),
        Potentials(data, dft | rotated, related=False),
    ]
