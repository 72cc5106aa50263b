"""Pages and figures from the records of scans, evaluations and runs. Imports no model and no torch.

Each function is imported when it is first used: matplotlib and the templates take half a second, and not every verb draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    match name:
        case "Attempts":
            from vitreg.report import attempts as home
        case "draw_evaluation" | "write_evaluation":
            from vitreg.report.evaluation import page as home
        case "write_curves_figure":
            from vitreg.report.run import figures as home
        case "draw_curves" | "write_curves":
            from vitreg.report.run import page as home
        case "write_comparison":
            from vitreg.report.scan import comparison as home
        case "write_figures":
            from vitreg.report.scan import figures as home
        case "draw_scan" | "write_report":
            from vitreg.report.scan import page as home
        case _:
            raise AttributeError(f"module 'vitreg.report' has no attribute '{name}'")
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
