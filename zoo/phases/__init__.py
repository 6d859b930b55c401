"""Phases of training: the rule, the cells it is applied to, and their map.

rule          phases from measurements, as a pure function
cells         versions that differ only in their seed
assignment    the rule applied to a registry
map           what a diagram shows
"""
