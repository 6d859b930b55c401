"""The pages for plugin authors: hooks, and the classes they register."""

from __future__ import annotations

import inspect
import re

from generator.markdown import prose
from generator.source import class_text, signature


def hooks() -> str:
    """In the order of `zoo/hookspecs.py`, under the comments that head its groups."""
    import zoo.hookspecs as module

    source = inspect.getsource(module)
    parts = ["# Hooks", inspect.cleandoc(module.__doc__ or "")]
    parts.append(
        "Mark an implementation with `zoo.hookimpl`. A plugin is a module or object that has some "
        "of these functions, named by an entry point in the group `zoo` or put as a file into a "
        "plugins directory: [](../how-to/write-a-method.md)."
    )
    for found in re.finditer(r"^# (.+)$|^def (zoo_\w+)", source, re.MULTILINE):
        if found[1] and not found[1].startswith("noqa"):
            heading, _, rest = found[1].partition(": ")
            parts.append(f"## {heading}\n\n{rest[:1].upper()}{rest[1:]}")
        elif found[2]:
            hook = getattr(module, found[2])
            parts += [f"### {found[2]}", signature(hook, found[2]), prose(hook.__doc__)]
            if hook.zoo_spec.get("firstresult"):
                parts.append("The first answer that is not None wins.")
    return "\n\n".join(parts)


def extensions() -> str:
    """What plugins offer besides functions: the classes they subclass."""
    import zoo.architecture
    import zoo.checkpoint
    import zoo.contract
    import zoo.metrics
    import zoo.sample
    import zoo.source
    import zoo.subject
    import zoo.task
    import zoo.transform

    parts = [
        "# Extension classes",
        "What plugins register through the [hooks](hooks.md). Abstract methods are marked; the "
        "others have a default.",
    ]
    for module, names in (
        (zoo.contract, ("Method", "Statistic", "Chunk")),
        (zoo.architecture, ("Architecture",)),
        (zoo.task, ("Task",)),
        (zoo.metrics, ("Metric",)),
        (zoo.sample, ("Sample",)),
        (zoo.subject, ("Subject",)),
        (zoo.checkpoint, ("Format", "Checkpoint", "TensorInfo", "Opened")),
        (zoo.transform, ("Transform", "Transformed")),
        (zoo.source, ("RemoteSource",)),
    ):
        parts += [class_text(getattr(module, name)) for name in names]
    parts.insert(2, "## The method decorator\n\n" + signature(zoo.contract.method, "zoo.method"))
    parts.insert(3, prose(zoo.contract.method.__doc__) + "\n\n" + contract_text())
    return "\n\n".join(parts)


def contract_text() -> str:
    """The docstring of `zoo.contract`, from its second paragraph on."""
    import zoo.contract

    return (zoo.contract.__doc__ or "").partition("\n\n")[2]
