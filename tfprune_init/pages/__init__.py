"""Pages to look at in a browser: one self-contained HTML file for a pruned network, or for a comparison of methods."""

from tfprune_init.pages.comparison import comparison_page
from tfprune_init.pages.page import Page
from tfprune_init.pages.pruning import pruning_page

__all__ = ["Page", "comparison_page", "pruning_page"]
