"""Pictures of what was measured: one file per picture, all in one style.

A picture is a function of plain numbers that returns a `matplotlib.figure.Figure`;
`zoo.plots.style.save` writes it. matplotlib is imported when a picture is drawn.
"""
