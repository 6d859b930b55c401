"""The architectures of transformers, where it is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.architecture import Architecture
from zoo.errors import InvalidCheckpoint
from zoo.hookspecs import hookimpl

if TYPE_CHECKING:
    import torch


class Transformers(Architecture):
    """Any model class of transformers, the one that `architectures` in `config.json` names.

    Called with one positional argument, as tasks do, a model gives the tensor of logits, or the
    first of its outputs; called with keywords it gives what transformers gives, so `generate`
    works. Attention is the plain one, since the fused has no second derivative on a CPU.

    Nothing is downloaded, and code beside a model is not run: a class must be transformers' own.
    """

    name = "transformers"

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether transformers has the class; it is not imported for the usual answer."""
        kind, name = config.get("model_type"), _class_name(config)
        if not isinstance(kind, str) or name is None:
            return False
        spec = find_spec("transformers")
        if spec is None or not spec.submodule_search_locations:
            return False
        folder = Path(spec.submodule_search_locations[0], "models", kind.replace("-", "_"))
        if re.fullmatch(r"[\w-]+", kind) and folder.is_dir():
            return any(
                f"\nclass {name}(" in file.read_text() for file in folder.glob("modeling_*.py")
            )
        # Some kinds live in a folder of another name. What no transformers wrote is none of them.
        return "transformers_version" in config and _find(name) is not None

    def build(self, config: Mapping[str, Any]) -> torch.nn.Module:
        kind = _class(config)
        return _with_plain_outputs(kind(_configuration(kind, config)))

    def load(self, directory: Path) -> torch.nn.Module:
        """By `from_pretrained`, which knows the older names of tensors; but what it passes over
        with a warning, weights that are missing or left over, is an error here."""
        from zoo.networks.modules import config_of

        config = config_of(directory)
        kind = _class(config)
        module, report = kind.from_pretrained(
            directory,
            config=_configuration(kind, config),
            dtype="auto",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with all else
        )
        problems = [f"`{n}` is missing" for n in sorted(report["missing_keys"])]
        problems += [f"`{n}` is left over" for n in sorted(report["unexpected_keys"])]
        problems += [
            f"`{n}` is {tuple(found)}, not {tuple(wanted)}"
            for n, found, wanted in sorted(report["mismatched_keys"])
        ]
        if problems:
            raise InvalidCheckpoint(
                f"The weights in `{directory}` are not those of `{kind.__name__}` as its "
                "`config.json` has it:",
                "; ".join(problems[:6]) + ("; and more." if len(problems) > 6 else "."),
                "Correct `config.json`, or the names in the checkpoint.",
                path=directory,
                problems=problems,
            )
        return _with_plain_outputs(module.eval())

    def layers(self, config: Mapping[str, Any]) -> Sequence[Sequence[str]]:
        """The embeddings; each hidden layer; what comes after. Empty for models of several stacks,
        such as an encoder and a decoder."""
        from torch import nn

        module = _outline(config)
        stacks = [n for n, m in module.named_modules() if isinstance(m, nn.ModuleList)]
        outer = [n for n in stacks if not any(n.startswith(f"{s}.") for s in stacks)]
        count = getattr(module.config, "num_hidden_layers", None)
        if len(outer) != 1 or len(module.get_submodule(outer[0])) != count:
            return ()
        prefix = f"{outer[0]}."
        names = list(module.state_dict())
        places = [i for i, n in enumerate(names) if n.startswith(prefix)]
        first, last = names[: places[0]], names[places[-1] + 1 :]
        return [*([first] if first else []), *([f"{prefix}{i}.*"] for i in range(count)), last]

    def head(self, config: Mapping[str, Any]) -> str | None:
        """The output embeddings of a language model, or the linear `classifier`."""
        from torch import nn

        module = _outline(config)
        embeddings = module.get_output_embeddings()
        named = ((n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear))
        return next((n for n, m in named if m is embeddings or n == "classifier"), None)


def _class_name(config: Mapping[str, Any]) -> str | None:
    listed = config.get("architectures")
    first = listed[0] if isinstance(listed, list) and listed else None
    return first if isinstance(first, str) and first.isidentifier() else None


def _find(name: str) -> Any:
    """A model class of transformers by its name, or None."""
    import transformers

    found = getattr(transformers, name, None)
    is_model = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    return found if is_model else None


def _class(config: Mapping[str, Any]) -> Any:
    """The class that a configuration names.

    Raises:
        InvalidCheckpoint: transformers has none of that name.
    """
    name = _class_name(config)
    found = _find(name) if name else None
    if found is None or found.config_class is None:
        raise InvalidCheckpoint(
            f"transformers has no model class `{name}`.",
            "`config.json` must name one in `architectures`, and code beside a model is not run.",
            "Correct it, or update transformers.",
            model_type=config.get("model_type"),
        )
    return found


def _configuration(kind: Any, config: Mapping[str, Any]) -> Any:
    """transformers' configuration object, with plain attention."""
    own = {k: v for k, v in config.items() if k not in ("auto_map", "attn_implementation")}
    if own.get("model_type") not in (None, kind.config_class.model_type):
        raise InvalidCheckpoint(
            f"`model_type` is `{own['model_type']}`, and `{kind.__name__}` is a model of "
            f"`{kind.config_class.model_type}`.",
            how="Correct `config.json`.",
            model_type=own["model_type"],
        )
    found = kind.config_class.from_dict(own)
    found._attn_implementation = "eager"
    return found


def _outline(config: Mapping[str, Any]) -> Any:
    """The module without memory: names and shapes alone."""
    import torch

    kind = _class(config)
    with torch.device("meta"):
        return kind(_configuration(kind, config))


def _with_plain_outputs(module: torch.nn.Module) -> torch.nn.Module:
    module.register_forward_hook(_plain, with_kwargs=True)
    return module


def _plain(
    module: torch.nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], outputs: Any
) -> Any:
    """The logits, or the first output, of a call with one positional argument."""
    if len(given) != 1 or named or not hasattr(outputs, "to_tuple"):
        return outputs
    logits = getattr(outputs, "logits", None)
    return outputs.to_tuple()[0] if logits is None else logits


@hookimpl
def zoo_register_architectures(register: Callable[[Architecture], None]) -> None:
    register(Transformers())
