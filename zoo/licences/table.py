"""Licences of models on the Hub and of SPDX, by the id that cards use, and what each asks for.

Sources: the texts that the links name; for the ids, https://huggingface.co/docs/hub/repositories-licenses
and https://spdx.org/licenses/.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Licence:
    """What one licence asks of whoever shares a model made from another under it."""

    id: str
    """As the Hub writes it, in lower case."""
    url: str
    """Its text."""
    permissive: bool = False
    """Whether the whole may be shared under other terms, this licence's notices kept."""
    rank: int = 0
    """Among permissive ones: how much is to be kept. 0 nothing, 1 a notice, 2 also changes and
    patents, 3 attribution with a link to the licence."""
    copyleft: bool = False
    """Whether the whole must be shared under this licence, and with no terms added."""
    share_alike: bool = False
    """The same of Creative Commons and open data licences."""
    attribution: bool = True
    """Whether notices are to be kept."""
    non_commercial: bool = False
    no_derivatives: bool = False
    """Whether what is made from it may not be shared at all."""
    use_restrictions: bool = False
    """Whether some uses are forbidden, and that is to be passed on."""
    name_required: str = ""
    """What the name of a model made from it must begin with."""

    @property
    def same_terms(self) -> bool:
        """Whether the whole must be under this licence and nothing else."""
        return self.copyleft or self.share_alike


def _spdx(spdx: str) -> str:
    return f"https://spdx.org/licenses/{spdx}.html"


def _cc(code: str) -> str:
    kind, version = code.rsplit("-", 1)
    return f"https://creativecommons.org/licenses/{kind.removeprefix('cc-')}/{version}/"


def _permissive(*spdx: str, rank: int = 1) -> list[Licence]:
    return [
        Licence(s.lower(), _spdx(s), permissive=True, rank=rank, attribution=rank > 0) for s in spdx
    ]


def _copyleft(*spdx: str) -> list[Licence]:
    return [Licence(s.lower(), _spdx(s), copyleft=True) for s in spdx]


def _creative_commons() -> list[Licence]:
    found = []
    for version in ("2.0", "2.5", "3.0", "4.0"):
        for kind in ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd"):
            parts = kind.split("-")
            code = f"cc-{kind}-{version}"
            found.append(
                Licence(
                    code,
                    _cc(code),
                    permissive=kind == "by",
                    rank=3 if kind == "by" else 0,
                    share_alike="sa" in parts,
                    non_commercial="nc" in parts,
                    no_derivatives="nd" in parts,
                )
            )
    return found


def _of_models(
    *ids: tuple[str, str], non_commercial: bool = False, name_required: str = ""
) -> list[Licence]:
    """Licences written for models: their terms, uses they forbid among them, are passed on."""
    return [
        Licence(
            one,
            url,
            use_restrictions=True,
            non_commercial=non_commercial,
            name_required=name_required,
        )
        for one, url in ids
    ]


_HUB = "https://huggingface.co/"
_NVIDIA = "https://www.nvidia.com/en-us/agreements/enterprise-software/"

_ALL = [
    *_permissive("CC0-1.0", "Unlicense", "PDDL-1.0", "WTFPL", "0BSD", rank=0),
    *_permissive("MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "ISC"),
    *_permissive("Zlib", "NCSA", "PostgreSQL", "BSL-1.0", "Python-2.0", "MS-PL", "BlueOak-1.0.0"),
    *_permissive("Apache-2.0", "ECL-2.0", "AFL-3.0", "Artistic-2.0", rank=2),
    *_permissive("ODC-By-1.0", "CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "etalab-2.0", rank=3),
    Licence("bsd", _spdx("BSD-3-Clause"), permissive=True, rank=1),
    Licence("odc-by", "https://opendatacommons.org/licenses/by/1-0/", permissive=True, rank=3),
    Licence("openmdw-1.0", "https://openmdw.ai/license/1-0/", permissive=True, rank=1),
    *_copyleft("GPL-2.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0", "GPL-3.0-only"),
    *_copyleft("GPL-3.0-or-later", "AGPL-3.0", "AGPL-3.0-only", "AGPL-3.0-or-later", "LGPL-2.1"),
    *_copyleft("LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0", "LGPL-3.0-only"),
    *_copyleft("LGPL-3.0-or-later", "MPL-2.0", "EUPL-1.1", "EUPL-1.2", "EPL-1.0", "EPL-2.0"),
    *_copyleft("OSL-3.0", "CECILL-2.1", "GFDL-1.3"),
    Licence("gpl", "https://www.gnu.org/licenses/", copyleft=True),
    Licence("lgpl", "https://www.gnu.org/licenses/", copyleft=True),
    Licence("gfdl", "https://www.gnu.org/licenses/fdl-1.3.html", copyleft=True),
    Licence("lgpl-lr", _spdx("LGPLLR"), copyleft=True),
    Licence("odbl", "https://opendatacommons.org/licenses/odbl/1-0/", share_alike=True),
    *_creative_commons(),
    *_of_models(("llama2", "https://ai.meta.com/llama/license/")),
    *_of_models(
        ("llama3", "https://www.llama.com/llama3/license/"),
        ("llama3.1", "https://www.llama.com/llama3_1/license/"),
        ("llama3.2", "https://www.llama.com/llama3_2/license/"),
        ("llama3.3", "https://www.llama.com/llama3_3/license/"),
        ("llama4", "https://www.llama.com/llama4/license/"),
        name_required="Llama",
    ),
    *_of_models(
        ("gemma", "https://ai.google.dev/gemma/terms"),
        ("openrail", _HUB + "blog/open_rail"),
        ("openrail++", _HUB + "stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md"),
        (
            "bigscience-openrail-m",
            "https://www.licenses.ai/blog/2022/8/26/bigscience-open-rail-m-license",
        ),
        ("bigscience-bloom-rail-1.0", _HUB + "spaces/bigscience/license"),
        ("creativeml-openrail-m", _HUB + "spaces/CompVis/stable-diffusion-license"),
        ("bigcode-openrail-m", _HUB + "spaces/bigcode/bigcode-model-license-agreement"),
        (
            "tongyi-qianwen",
            "https://github.com/QwenLM/Qwen/blob/main/Tongyi%20Qianwen%20LICENSE%20AGREEMENT",
        ),
        ("qwen", _HUB + "Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE"),
        ("deepseek", "https://github.com/deepseek-ai/DeepSeek-V3/blob/main/LICENSE-MODEL"),
        ("falcon-llm-license", "https://falconllm.tii.ae/falcon-terms-and-conditions.html"),
        ("nvidia-open-model-license", _NVIDIA + "nvidia-open-model-license/"),
        ("stabilityai-ai-community", _HUB + "stabilityai/stable-diffusion-3.5-large"),
        ("apple-ascl", _HUB + "apple/mobileclip_s0_timm"),
    ),
    *_of_models(
        ("qwen-research", _HUB + "Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE"),
        ("mrl", "https://mistral.ai/licenses/MRL-0.1.md"),
        ("mnpl", "https://mistral.ai/licenses/MNPL-0.1.md"),
        ("apple-amlr", _HUB + "apple/deeplabv3-mobilevit-small/blob/main/LICENSE"),
        ("nvidia-non-commercial", "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"),
        ("intel-research", _HUB + "Intel/neural-chat-7b-v3/blob/main/LICENSE"),
        ("fair-noncommercial-research-license", _HUB + "facebook/MobileLLM-125M"),
        ("flux-1-dev-non-commercial-license", _HUB + "black-forest-labs/FLUX.1-dev"),
        ("deepfloyd-if-license", _HUB + "spaces/DeepFloyd/deepfloyd-if-license"),
        non_commercial=True,
    ),
]

LICENCES = {one.id: one for one in _ALL}

_ALIASES = {
    "apache": "apache-2.0",
    "cc0": "cc0-1.0",
    "cc-zero": "cc0-1.0",
    "agpl": "agpl-3.0",
    "mpl": "mpl-2.0",
    "eupl": "eupl-1.2",
    "pddl": "pddl-1.0",
    "mistral-ai-research-licence": "mrl",
    "mistral-research-license": "mrl",
    "deepseek-license": "deepseek",
    "qwen-license": "qwen",
    "tongyi-qianwen-license-agreement": "tongyi-qianwen",
    "falcon-llm": "falcon-llm-license",
    "nvidia-open-model": "nvidia-open-model-license",
    "stable-diffusion-community": "stabilityai-ai-community",
}


def known(name: str | None) -> Licence | None:
    """A licence by its id, in any case; None for what is not known, `other` and `unknown` too."""
    if name is None:
        return None
    key = "-".join(name.strip().lower().split())
    return LICENCES.get(_ALIASES.get(key, key))
