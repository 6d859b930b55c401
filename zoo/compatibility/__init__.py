"""What keeps models from being merged, or makes the merge doubtful, seen before a weight is read.

method               what a method asks of the number and kind of its inputs
tensors, names       shapes and types; tensors that some models lack, and why
settings             what a configuration says of the network, in one spelling
configurations       what configurations say differently although the tensors fit
tokenizers, terms    the same rows for other tokens; licences
origins              whether experts come from the base they are merged with
doubts               what a merge lets pass, of all of these
checking             all of them for models that are named: `zoo check`
problem, wording     what is found, and how it is said

Errors are found by the functions that plan a merge, so that what `zoo check` accepts
`zoo merge --dry-run` accepts. Warnings leave the decision to whoever merges.
"""

from __future__ import annotations

from zoo.compatibility.problem import Problem, Report, Severity

__all__ = ["Problem", "Report", "Severity"]
