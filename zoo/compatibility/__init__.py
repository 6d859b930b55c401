"""What keeps models from being merged, or makes the merge doubtful, seen before a weight is read.

    method.py       what a method asks of the number and kind of its inputs
    tensors.py      names, shapes and types, and the configuration's values that explain them
    files.py        configurations, tokenizers and licences
    origins.py      whether experts come from the base they are merged with
    checking.py     all of these for models that are named: `zoo check`

Errors are found by the functions that plan a merge, so that what `zoo check` accepts
`zoo merge --dry-run` accepts. Warnings leave the decision to whoever merges.
"""

from __future__ import annotations

from zoo.compatibility.problem import Problem, Report, Severity

__all__ = ["Problem", "Report", "Severity"]
