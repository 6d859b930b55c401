"""mergekit's side of `tokenizer_parity.py`; the Python is that of mergekit's own environment.

    python tokenizer_parity_mergekit.py JOBS.json

JOBS.json: `{"merges": [{"config": PATH, "out": DIR}, ...], "omp": {"file": PATH, "k": N}}`, the
file safetensors with `targets` and `atoms`. Prints the errors by directory, and writes what
`batch_omp` finds beside the file, as `theirs.safetensors`, with its seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.tokensurgeon import batch_omp
from safetensors.torch import load_file, save_file


def main(jobs: str) -> None:
    asked = json.loads(Path(jobs).read_text())
    failed = {}
    for job in asked["merges"]:
        document = yaml.safe_load(Path(job["config"]).read_text())
        config = MergeConfiguration.model_validate(document)
        try:
            run_merge(config, job["out"], MergeOptions(write_model_card=False, quiet=True))
        except Exception as error:  # whatever it raises is the finding
            failed[job["out"]] = f"{type(error).__name__}: {error}"
    file = Path(asked["omp"]["file"])
    given = load_file(file)
    start = time.monotonic()
    atoms, weights = batch_omp(given["targets"], given["atoms"], asked["omp"]["k"])
    seconds = time.monotonic() - start
    found = {"atoms": atoms, "coefficients": weights.to(torch.float64)}
    save_file(found, file.with_name("theirs.safetensors"))
    print(json.dumps({"failed": failed, "omp_seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
