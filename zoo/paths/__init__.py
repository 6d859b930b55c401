"""Paths between models in the space of weights, and what a task makes of the models on them.

states            two models as points that can be mixed
profile           loss and error along a line, and its barrier
curve             a Bezier curve of low loss
norm_statistics   BatchNorm's statistics, for weights that never trained together
"""
