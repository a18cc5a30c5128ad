"""TFLite export: convert the plain model, verify the file in a subprocess, report its size and speed."""

from __future__ import annotations

from tfprune_init.export.edge_report import EdgeReport
from tfprune_init.export.tflite_export import export_tflite
from tfprune_init.export.warm_exporter import exporter

__all__ = [
    "EdgeReport",
    "export_tflite",
    "exporter",
]
