"""What results show of themselves in Python: rows for pandas, a card for a notebook, a figure."""

from vitreg.report.shown.briefs import brief_of
from vitreg.report.shown.figures import figure_of
from vitreg.report.shown.rows import rows_of

__all__ = ["brief_of", "figure_of", "rows_of"]
