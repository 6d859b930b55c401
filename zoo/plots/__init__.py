"""Pictures of what was measured: one file per picture, all in one style.

A picture is a function of plain numbers that returns a `matplotlib.figure.Figure`;
`zoo.plots.style.save` writes it. matplotlib is imported when a picture is drawn.

barrier, loss_surface, coefficients   along lines, planes and coefficients
matrix, comparison, phase_diagram     of pairs, of methods, of grids
recorded, computed                    the numbers: from the registry, or from models that are run
style                                 how all look
"""
