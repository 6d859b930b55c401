"""Run mergekit on a list of configurations; the Python is that of mergekit's own environment.

    python parity_mergekit.py JOBS.json

JOBS.json: `[{"config": PATH, "out": DIR, "seed": N}, …]`. A process per merge would spend its time
importing. Prints a JSON object: out -> the error that mergekit raised.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions


def main(jobs: str) -> None:
    failed = {}
    for job in json.loads(Path(jobs).read_text()):
        config = MergeConfiguration.model_validate(yaml.safe_load(Path(job["config"]).read_text()))
        options = MergeOptions(
            copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=job["seed"]
        )
        try:
            run_merge(config, job["out"], options)
        except Exception as error:  # whatever it raises is the finding
            failed[job["out"]] = f"{type(error).__name__}: {error}"
    print(json.dumps(failed))


if __name__ == "__main__":
    main(sys.argv[1])
