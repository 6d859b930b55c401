"""Adapters: small files that change some tensors of a base.

peft_layout, kohya_layout   names and configuration -> changes, from headers alone
change                      what one tensor of the base becomes
updates, exact              the numbers: W + scale B A, the same bytes however it is read
adapted                     base and changes as one lazy checkpoint
inputs                      the same as an input of a merge, with its lineage
factoring                   the other way: from a difference of two models to factors
"""
