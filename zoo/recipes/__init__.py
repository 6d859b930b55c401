"""What to merge, as plain data: read strictly, resolved to a lock, said again.

recipe                               YAML -> recipe -> lock: digests, parameters, seed
strict_yaml                          YAML without surprises: no key twice, errors by line and column
slices, schedule, tokenizer_block    layers, values that vary over tensors, vocabularies
multi_stage                          documents of one file that build on each other
mergekit_recipe, mergekit_config     from mergekit's configuration files, and back
"""
