"""Transformable Architecture Search: widths of convolutions and depths of stages, learned at a given cost."""

from tfprune_init.width_search.networks import ResNetSpace, ResNetWidths
from tfprune_init.width_search.searching import SearchedWidths, search_widths

__all__ = ["ResNetSpace", "ResNetWidths", "SearchedWidths", "search_widths"]
