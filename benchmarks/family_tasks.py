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
    expected_to_fail = False
    digits = 2

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
    expected_to_fail = True

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


class Potentials(Family):
    """Interatomic potentials: no energies to score with, so what a merge computes is compared with
    what base and fine-tune compute."""

    folder = "ani-potentials"
    digits = 3
    tasks = ("like the first", "like the second", "as one of both")
    owners = {"like the first": 0, "like the second": 1, "as one of both": 0}

    def __init__(self, data: Path, first: str, second: str, related: bool) -> None:
        super().__init__(data / self.folder)
        self.name = f"{first} and {second}"
        self._ends = (first, second)
        if related:
            self.base, self.experts = first, (second,)
            self.owners = {}
            kind = "a base (first) and its fine-tune (second), half of the tensors frozen"
        else:
            self.experts = self._ends
            kind = "two networks trained from different starts"
        self.expected_to_fail = not related
        self.title = (
            f"ANI potentials `{first}` and `{second}`: {kind}. No energies are at hand: the scores "
            "are 1 - rms(difference of the energies) / rms(difference of the two networks'), over "
            "500 made-up environments of each element, against either end and against the nearest "
            "point of the line between them: 1 is agreement."
        )

    @cached_property
    def environments(self) -> dict[str, torch.Tensor]:
        """Sparse and not negative, as symmetry functions are."""
        draw = torch.Generator().manual_seed(0)
        return {
            e: torch.rand(500, 384, generator=draw).pow(8)
            * (1 + torch.rand(500, 1, generator=draw))
            for e in "HCNO"
        }

    def energies(self, state: State) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat(
                [networks.ani_atoms(state, e, x) for e, x in self.environments.items()]
            )

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        here = self.energies(state)
        a, b = (self.energies(self.read(e)) for e in self._ends)
        scale = (b - a).square().mean().sqrt()
        t = (((here - a) * (b - a)).sum() / (b - a).square().sum()).clamp(0, 1)
        goals = dict(zip(self.tasks, (a, b, a + t * (b - a)), strict=True))
        return {
            task: float(1 - (here - goals[task]).square().mean().sqrt() / scale) for task in tasks
        }


class Crystals(Family):
    """CHGNet's training checkpoints: neither data nor a small forward pass, so weights alone."""

    name = folder = "chgnet-potentials"
    title = (
        "CHGNet 0.3.0 and its transfer learning to r2SCAN. No data: how far along the way from "
        "base to fine-tune a merge lies (0 to 1), how far it strays from that line (0 is on it; in "
        "lengths of the way, negative so that more is better), and the share of the tensors that "
        "both have bit for bit and the merge has too."
    )
    digits = 3
    base = "chgnet_0.3.0_e29f68s314m37.pth.tar"
    experts = ("chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",)
    tasks = ("along", "off the line", "frozen kept")
    owners: Mapping[str, int] = {}

    def __init__(self, data: Path) -> None:
        super().__init__(data / self.folder)

    def read(self, directory: str) -> State:
        loaded = torch.load(self.data / directory, map_location="cpu", weights_only=True)
        return dict(loaded["model"]["state_dict"])

    def score(self, state: State, tasks: Sequence[str]) -> dict[str, float]:
        base, expert = self.base_state, self.expert_states[0]
        names = [k for k in base if base[k].is_floating_point()]

        def flat(other: State) -> torch.Tensor:
            return torch.cat([(other[k].double() - base[k].double()).flatten() for k in names])

        way, moved = flat(expert), flat(state)
        along = float(moved @ way / (way @ way))
        frozen = [k for k in names if torch.equal(base[k], expert[k])]
        kept = sum(torch.equal(state[k], base[k]) for k in frozen) / len(frozen)
        off = -float((moved - along * way).norm() / way.norm())
        scores = {"along": along, "off the line": off, "frozen kept": kept}
        return {task: scores[task] for task in tasks}


def families(data: Path) -> list[Family]:
    return [
        Upscalers(data, "upresnet10", "w2x-upresnet10", "UpResNet10, drawings and photographs"),
        Upscalers(data, "upconv7", "w2x-upconv7-photo", "UpConv7, photographs, float16 weights"),
        Pangolin(data),
        *(Potentials(data, f"ani1x-m{i}", f"ani1ccx-m{i}", related=True) for i in range(3)),
        Crystals(data),
        UnrelatedSplicing(data),
        Potentials(data, "ani1x-m0", "ani1x-m1", related=False),
    ]
