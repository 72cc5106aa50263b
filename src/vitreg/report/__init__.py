"""Pages and figures from the records of scans, evaluations and runs. Imports no model and no torch."""

from vitreg.report.attempts import Attempts
from vitreg.report.evaluation.page import draw_evaluation, write_evaluation
from vitreg.report.run.figures import write_curves_figure
from vitreg.report.run.page import draw_curves, write_curves
from vitreg.report.scan.comparison import write_comparison
from vitreg.report.scan.figures import write_figures
from vitreg.report.scan.page import draw_scan, write_report

__all__ = [
    "Attempts",
    "draw_curves",
    "draw_evaluation",
    "draw_scan",
    "write_comparison",
    "write_curves",
    "write_curves_figure",
    "write_evaluation",
    "write_figures",
    "write_report",
]
