"""Mixtures of experts: made of dense siblings, and made smaller by merging experts.

config, options, prompts          what is asked for, in mergekit-moe's words
dense, layouts, mixed             what tensors are called: of dense models, of mixtures, on disk
fits                              everything that speaks against it, from headers
upcycling, mixture                a mixture of dense siblings: its tensors, lazily
router, hidden, draws             which expert a token is for: from states of prompts, or at random
fewer, merging                    a mixture with fewer experts
grouping, alignment               which experts go together, and how their units match
elements                          tensors worked out in runs, in bounded memory
"""
