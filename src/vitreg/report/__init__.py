"""From records to pages and figures: reads what a scan left behind, imports no model and no torch."""

from vitreg.report.comparison import write_comparison
from vitreg.report.figures import write_figures
from vitreg.report.page import write_report

__all__ = ["write_comparison", "write_figures", "write_report"]
