"""Mixtures of experts: made of dense siblings, and made smaller by merging experts."""
