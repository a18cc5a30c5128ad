"""TFLite export: convert the plain model, verify the file in a subprocess, account for its size."""

from __future__ import annotations

from tfprune_init.export.edge_report import EdgeReport
from tfprune_init.export.tflite import export_tflite

__all__ = ["EdgeReport", "export_tflite"]
