"""Grows populations of models over grids, and takes in published ones.

plan, estimate       what to grow, and what it will take
population, member   the grid, and one model of it: trained, registered, scored, measured
pool                 jobs in several processes
training             a module trained by a plan, the same for the same seed
published            populations that others trained
"""
