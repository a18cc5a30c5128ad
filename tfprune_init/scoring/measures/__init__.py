"""Measures of a masked network, one per file: what a criterion can ask the engine for."""
