"""One thing that is wrong with a set of models, and all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from zoo.errors import IncompatibleModels, ZooError

Severity = Literal["error", "warning", "note"]
"""`error`: the merge is refused. `warning`: it runs, and may not give what is wanted. `note`: what
the result will be where the models differ."""
_ORDER: Mapping[str, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is the case, why that matters, how to mend it."""

    code: str
    """One word for the kind of problem: `shapes`, `vocabulary`, `licences`."""
    severity: Severity
    what: str
    """With names and numbers; no full stop."""
    why: str = ""
    """The rule behind it; no full stop."""
    remedy: str = ""
    """Whole sentences, with something to paste where there is something."""
    models: tuple[str, ...] = ()
    """Labels of those it is about."""
    tensors: tuple[str, ...] = ()
    """All of them, where the sentence names the first ones."""

    def __str__(self) -> str:
        said = self.what + (f": {self.why}" if self.why else "")
        return f"{said}. {self.remedy}" if self.remedy else said

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "models": list(self.models), "tensors": list(self.tensors)}


@dataclass(frozen=True, slots=True)
class Report:
    """What `zoo check` found."""

    models: tuple[str, ...]
    """Labels of the models looked at, the base last."""
    problems: tuple[Problem, ...] = ()
    """Errors first, then warnings, then notes; in each the causes before what they bring about."""
    base: str | None = None
    method: str | None = None
    license: str | None = None
    """What a merge of the models would be under; None where that cannot be said."""
    obligations: tuple[str, ...] = ()
    """What their licences ask of whoever shares it."""

    @property
    def ok(self) -> bool:
        """Whether the models can be merged."""
        return not any(p.severity == "error" for p in self.problems)

    def of(self, severity: Severity) -> list[Problem]:
        return [p for p in self.problems if p.severity == severity]

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "models": list(self.models),
            "base": self.base,
            "method": self.method,
            "license": self.license,
            "obligations": list(self.obligations),
            "problems": [p.as_dict() for p in self.problems],
        }


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Each problem once, the worst first; problems of one severity stay in their order."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda p: _ORDER[p.severity]))


def of_error(error: ZooError, code: str, models: tuple[str, ...] = ()) -> list[Problem]:
    """The problems that an error stands for: those it lists, or itself."""
    if details := error.facts.get("details"):
        return [
            replace(
                Problem(**d), models=tuple(d.get("models", ())), tensors=tuple(d.get("tensors", ()))
            )
            for d in details
        ]
    if listed := error.facts.get("problems"):
        return [Problem(code, "error", str(p).rstrip("."), models=models) for p in listed]
    return [
        Problem(
            code, "error", error.what.rstrip(".:"), error.why.rstrip("."), error.how, models=models
        )
    ]


def refuse(problems: Iterable[Problem | str]) -> None:
    """Raise IncompatibleModels with all problems, if there are any."""
    found = list(problems)
    if found:
        lines = "\n".join(f"  - {p}" for p in found)
        raise IncompatibleModels(
            f"These models cannot be merged, {len(found)} "
            f"problem{'s' if len(found) > 1 else ''}:\n{lines}\n",
            "A merge begins only when there is none; nothing was written.",
            problems=[str(p) for p in found],
            details=[
                p.as_dict() if isinstance(p, Problem) else Problem("refused", "error", p).as_dict()
                for p in found
            ],
        )
