"""Adapters: small files that change some tensors of a base.

adapter                     an adapter's file, opened: tensors, layout, configuration
peft_config                 what `adapter_config.json` says
peft_layout, kohya_layout   names and configuration -> changes, from headers alone
targets, ldm_names          which tensor of the base is meant
change                      what one tensor of the base becomes
updates, exact              the numbers: W + scale B A, the same bytes however it is read
adapted                     base and changes as one lazy checkpoint
inputs                      the same as an input of a merge, with its lineage
factoring                   the other way: from a difference of two models to factors
"""
