"""From records to pages and figures: reads what a scan or a run left behind, imports no model and no torch."""

from vitreg.report.comparison import write_comparison
from vitreg.report.curves_page import write_curves
from vitreg.report.figures import write_figures
from vitreg.report.figures_run import write_curves_figure
from vitreg.report.page import write_report

__all__ = ["write_comparison", "write_curves", "write_curves_figure", "write_figures", "write_report"]
