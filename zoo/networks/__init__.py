"""Runnable networks from configurations and weights.

loading                     from a reference to a module or to tensors
modules                     configuration and weights to module, and back
network_config              `config.json`, read into a dataclass, complete
norms, transformer_block    what bundled architectures share
"""
