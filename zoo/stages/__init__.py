"""The five stages task-vector methods are composed of: sparsify, weight, elect, fuse, scale.

Each works on deltas of one chunk, shape (e, n): e experts, n elements, and may overwrite what it is
given. A named method composes them in a few lines.

magnitude, band, rank, rows, blocks   sparsify by size: of all, within a band, rank, row or block
drop, rescale                         sparsify at random; what is left, made as large as before
order                                 exact order statistics of what streams past
signs, consensus, variance            elect signs, weigh and fuse
gram, sphere, sums                    combinations by inner products; directions; exact sums
spectrum, low_rank                    singular vectors; matrices as two thin ones
task_masks                            which entries belong to which task
mergekit_names                        the same options in mergekit's words
"""
