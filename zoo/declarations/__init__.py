"""Readers of what checkpoints say of themselves: one convention a file.

files, plain                    where such things are said, read with bounds, as plain data
records                         what was said, as values
front_matter, hub_card          model cards
zoo_lineage, mergekit, webui    what made a merge, by the tool that made it
peft, kohya, modelspec          what an adapter was trained on, and by whom

`zoo.declared` is the door.
"""
