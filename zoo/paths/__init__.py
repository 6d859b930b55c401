"""Paths between models in the space of weights, and what a task makes of the models on them."""
