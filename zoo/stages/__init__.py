"""The five stages task-vector methods are composed of: sparsify, weight, elect, fuse, scale.

Each works on deltas of one chunk, shape (e, n): e experts, n elements, and may overwrite what it is
given. A named method composes them in a few lines.
"""
