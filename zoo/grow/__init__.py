"""Grows populations of models over grids, and takes in published ones."""
