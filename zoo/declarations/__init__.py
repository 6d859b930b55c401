"""Readers of what checkpoints say of themselves: one convention a file.

`zoo.declared` is the door.
"""
