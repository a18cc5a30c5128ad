"""Latency of smaller models as a share of that of a first one, each timed in turns with it."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import ExportError
from tfprune_init.export.conversion import convert
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.export.latency import measure_latencies
from tfprune_init.export.subprocess_runner import Runner, run_script
from tfprune_init.masking.wrapper import to_plain_model


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of a model as a share of that of the first one, one example on one thread.

    Attributes:
        ratio: Median by median.
        low: What a tenth of its runs stayed below, by the median of the first model.
        high: What a tenth of its runs took more than, by the same.
        seconds: Median of its runs.
        first_seconds: Median of the runs of the first model beside them.
    """

    ratio: float
    low: float
    high: float
    seconds: float
    first_seconds: float


class LatencyMeter:
    """Measures models against a first one, as float32 TFLite files on this machine.

    Args:
        model: The first model, built.
        run: Function that runs the scripts of converter and timing.

    Raises:
        ExportError: If the model cannot be converted.
    """

    def __init__(self, model: Model, run: Runner = run_script):
        self._run = run
        self._signature = find_signature(model)
        self._inputs = dict(
            zip((spec.name for spec in self._signature.inputs), self._signature.synthetic(1), strict=True)
        )
        self._first = self._convert(model)

    def measure(self, model: Model) -> LatencyRatio:
        """Time a model of the same inputs in turns with the first one.

        Raises:
            ExportError: If it cannot be converted or does not run.
        """
        times = measure_latencies({"first": self._first, "other": self._convert(model)}, self._inputs, self._run)
        if len(times.latencies) < 2:
            raise ExportError(f"{times.interpreter} does not run the files of model {model.name!r}, so none was timed.")
        first, other = times.latencies["first"], times.latencies["other"]
        whole = first.median_seconds
        return LatencyRatio(
            other.median_seconds / whole,
            other.low_seconds / whole,
            other.high_seconds / whole,
            other.median_seconds,
            whole,
        )

    def _convert(self, model: Model) -> bytes:
        forward = InferenceFunction(to_plain_model(model), self._signature)
        return convert(forward, [None], None, None, self._run, "float32").files[None]
