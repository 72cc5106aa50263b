"""The figure of `vitreg eval complexity` comes from its tables, as values."""

import numpy as np

from vitreg.report.sheets.cost import cost_figure
from vitreg.results import Table

COST = Table(
    title="Cost of registers at 224x224 pixels, one image, forward",
    columns=["registers", "% more parameters", "% more GMACs"],
    rows=[[0, 0.0, 0.0], [4, 0.001, 1.62], [16, 0.005, 6.48]],
)
PROFILES = Table(
    title="What each column of it receives, 3x3 to 2x2",
    columns=["resampling", "0", "1", "2"],
    rows=[["antialias off, by size", -0.1, 2.2, -0.1], ["antialias on, by size", 0.6, 0.8, 0.6]],
)


def test_lines_and_maps_are_those_of_the_tables():
    figure = cost_figure(COST, PROFILES)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["% more FLOPs"].get_xydata(), [[0, 0], [4, 1.62], [16, 6.48]])
    images = [axes.images[0] for axes in figure.axes if axes.images]
    np.testing.assert_allclose(images[0].get_array(), np.outer([-0.1, 2.2, -0.1], [-0.1, 2.2, -0.1]))
    assert len({image.get_clim() for image in images[:2]}) == 1
