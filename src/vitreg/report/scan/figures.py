"""The figures of a scan as PNG files for papers and notebooks; `charts` makes each as a matplotlib ``Figure``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from vitreg.records import Example, ScanResult
from vitreg.report.attempts import Attempts
from vitreg.report.paper import NotMeasuredError, save_figure
from vitreg.report.scan.charts import examples as contact_sheet
from vitreg.report.scan.charts import histogram, norms, pairs
from vitreg.writing.files import output_folder


def write_figures(
    result: ScanResult, examples: Sequence[Example], directory: Path, attempts: Attempts | None = None
) -> list[Path]:
    """Write every figure that the record allows into ``directory/figures/`` and return the paths, in the page's order.

    A figure whose data was not measured is left out, and one from an earlier scan in the folder is removed.

    Args:
        attempts: collects figures that fail; the others are written.
    Raises:
        UserError: if the folder cannot be written.
    """
    folder = output_folder(Path(directory) / "figures")
    drawings: list[tuple[str, Callable[[], Figure]]] = [
        ("norms_per_layer", lambda: norms.figure(result)),
        ("histogram_peak", lambda: histogram.figure(result)),
        *((pairs.name_of(chart), partial(chart.figure, result)) for chart in pairs.CHARTS if chart.figure),
        ("examples", lambda: contact_sheet.figure(examples)),
    ]
    attempts = Attempts() if attempts is None else attempts
    written = []
    for name, draw in drawings:
        path = folder / f"{name}.png"
        if attempts(f"figures/{path.name}", lambda draw=draw, path=path: _saved(draw, path)):
            written.append(path)
        else:
            path.unlink(missing_ok=True)
    return written


def _saved(draw: Callable[[], Figure], path: Path) -> bool:
    """Draw a figure into a file; False if the record lacks its data."""
    try:
        figure = draw()
    except NotMeasuredError:
        return False
    save_figure(figure, path)
    return True
