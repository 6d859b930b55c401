"""Phases of training: the rule, the cells it is applied to, and their map."""
