"""What the licences of models ask for, and what a merge of models is under.

    known("llama3.1").name_required       # "Llama"
    combined(["apache-2.0", "gemma"])     # license="gemma", and what is to be done

table        licences, and what each asks for
combining    the licence of a merge

This is a reading of well-known licences, kept as data with their sources. It is no legal advice: it
errs on the side of saying nothing, and what it says is for a person to check.
"""

from __future__ import annotations

from zoo.licences.combining import Combined, combined
from zoo.licences.table import LICENCES, Licence, known

__all__ = ["LICENCES", "Combined", "Licence", "combined", "known"]
