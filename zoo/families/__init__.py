"""Architecture knowledge as data: the tensors that models of a family have, and what they are.

    family = family_of(config, names)
    family.known                # from the data; else worked out from config and names
    family.embeddings, family.head, family.tied, family.stacks, family.components
    family.compare(names)       # missing, unexpected, left out on purpose, named otherwise, fused

find, family                the door; what is known of one family
data, known, templates      classes of transformers, as data
inferred                    what configuration and names alone tell
renames, renamed            names of other versions of transformers

Nothing here imports torch or transformers: `families.jsonl` holds what transformers' own classes
say of themselves, written by `benchmarks/make_families.py`.
"""

from zoo.families.family import COMPONENTS, Differences, Family, Stack
from zoo.families.find import family_of

__all__ = ["COMPONENTS", "Differences", "Family", "Stack", "family_of"]
