"""Reports for the browser: one self-contained HTML file about a pruned network or a comparison of methods."""

from tfprune_init.reports.comparison import comparison_page
from tfprune_init.reports.html_report import HtmlReport
from tfprune_init.reports.pruning import pruning_page

__all__ = [
    "HtmlReport",
    "comparison_page",
    "pruning_page",
]
