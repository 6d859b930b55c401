"""Numerics of the loss landscape of one model; what the bundled metrics are thin fronts of.

examples    the batches of a sample, read once or kept
objective   mean loss over them as a function of the parameters, and its derivatives
hessian     leading eigenvalues, trace, spectral density
lanczos     a symmetric matrix, tridiagonal, from its products with vectors
sharpness   one step, average and worst case within a ball
layers      which parameters make a layer
stragglers  layers that do not interpolate
collapse    class means and scatter of the features before the head
powerlaw    the tail of a spectrum
esd         the spectra of a checkpoint's matrices, one tensor at a time
estimate    means of repeated measurements, with their errors
"""
