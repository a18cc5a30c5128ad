"""TFLite files of pruned models: how fast, how small, and which of them are verified, in the tables of docs/edge.md.

    python benchmarks/edge.py                                  # everything, as JSON; about half an hour on 2 cores
    python benchmarks/edge.py speed sizes                      # some of it: speed, sizes, matrix, exports
    python benchmarks/edge.py matrix --models LeNet-5          # the matrix of some models
    python benchmarks/edge.py --page docs/edge.md              # and write the tables into the page
    python benchmarks/edge.py --from-json a.json b.json --page docs/edge.md    # the numbers of earlier runs

Times are medians of runs in turns within one process, one example a run, one thread. Absolute ones are of the machine.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tfprune_init as tpi
from tfprune_init.errors import ExportError, NetworkCollapseError
from tfprune_init.export.conversion import convert
from tfprune_init.export.encoding_choice import SelectedFile, select_file
from tfprune_init.export.flatbuffer import densify
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.export.latency import describe_cpu
from tfprune_init.export.verification import verify
from tfprune_init.graph.variables import find_prunable_variables

WAYS: tuple[str | None, ...] = (None, "float16", "dynamic", "int8")
EMPTYING_BYTES = 64 << 20
"""What is written between two runs to empty the caches, as other work on a device does."""


def dense_layers() -> Any:
    """Two Dense layers of 1,024 x 1,024."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(1024, activation="relu"), keras.layers.Dense(1024)]
    return keras.Sequential([keras.Input((1024,)), *layers])


def mobilenet(alpha: float = 1.0, classes: int = 1000) -> Any:
    """MobileNet for images of 96 x 96, untrained."""
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNet((96, 96, 3), alpha=alpha, weights=None, classes=classes)


def pruned(model: Any, sparsity: float, **options: Any) -> Any:
    """Copy the model without a share of its weights, chosen at random; anew where that would cut it in two."""
    for seed in range(100):
        try:
            tpi.prune_at_init(
                model, None, sparsity=sparsity, **{"method": "random", "verbose": 0, "seed": seed, **options}
            )
            return tpi.strip(model)
        except NetworkCollapseError:
            continue
    raise SystemExit(f"No mask of {sparsity:.0%} leaves {model.name} connected.")


def speed() -> dict[str, Any]:
    """Time Dense layers pruned in blocks and one by one, beside their dense files, with warm and empty caches."""
    blocks = {"granularity": "block", "block_size": (4, 1)}
    result = {}
    for kind, options in (("blocks of 1x4", blocks), ("single weights", {})):
        for sparsity in (0.8, 0.9, 0.95, 0.99):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.tflite"
                model = pruned(dense_layers(), sparsity, **options)
                report = tpi.export_tflite(model, path, sparse=True)
                files = dict(report.files())
                cold = in_turns(dense_files(model) | {"this file": path.read_bytes()})
            dense = files["dense float32"].latency.median_seconds
            ours = files["this file"].latency.median_seconds
            result[f"{kind}, {sparsity:.0%}"] = {
                "kernels": sorted({tensor.kernel for tensor in report.tensors}),
                "seconds": {name: file.latency.median_seconds for name, file in files.items()},
                "times_faster": dense / ours,
                "seconds_empty_caches": cold,
                "times_faster_empty_caches": cold["dense float32"] / cold["this file"],
                "bytes": {name: file.raw_bytes for name, file in files.items()},
                "peak_bytes": {name: file.footprint.peak_bytes for name, file in files.items()},
            }
    return result


def dense_files(model: Any) -> dict[str, bytes]:
    """Make the dense files in float32 and int8."""
    signature = find_signature(model)
    files = convert(InferenceFunction(model, signature), [None, "int8"], signature.synthetic(64)).files
    return {"dense float32": densify(files[None]), "dense int8": densify(files["int8"])}


def in_turns(files: dict[str, bytes], rounds: int = 51) -> dict[str, float]:
    """Median seconds of a run whose weights are no longer in the caches."""
    from ai_edge_litert.interpreter import Interpreter

    interpreters = {name: Interpreter(model_content=file, num_threads=1) for name, file in files.items()}
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
        interpreter.invoke()
    filler = np.zeros(EMPTYING_BYTES, np.uint8)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(rounds):
        for name, interpreter in interpreters.items():
            filler += 1
            before = time.perf_counter()
            interpreter.invoke()
            seconds[name].append(time.perf_counter() - before)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def sizes() -> dict[str, Any]:
    """Bytes of float32 files, beside what the kept weights, their indices and the unprunable rest must take."""
    models: dict[str, Callable[[], Any]] = {
        "LeNet-300-100": functools.partial(tpi.models.lenet_300_100, seed=0),
        "LeNet-5": functools.partial(tpi.models.lenet_5, seed=0),
        "MobileNet, 96x96": mobilenet,
    }
    result = {}
    for (name, build), sparsity in itertools.product(models.items(), (0.9, 0.95, 0.99)):
        model = pruned(build(), sparsity, method="erk")
        with tempfile.TemporaryDirectory() as folder:
            report = tpi.export_tflite(model, Path(folder) / "model.tflite", measure=False)
        values, columns, rows, dense = bound(model)
        rest = report.dense_float32.raw_bytes - dense
        result[f"{name}, {sparsity:.0%}"] = {
            "dense_bytes": report.dense_float32.raw_bytes,
            "bytes": report.raw_bytes,
            "gzip_bytes": report.gzip_bytes,
            "dense_gzip_bytes": report.dense_float32.gzip_bytes,
            "value_bytes": values,
            "column_index_bytes": columns,
            "row_index_bytes": rows,
            "unprunable_bytes": rest,
            "to_bound": report.raw_bytes / (values + columns + rows + rest),
            "to_bound_without_row_index": report.raw_bytes / (values + columns + rest),
        }
    return result


def bound(model: Any) -> tuple[int, int, int, int]:
    """Bytes, from the Keras model alone: of kept values, their columns, the ends of rows; of all prunable weights.

    A row is what feeds one output from one place of the kernel: the inputs of a Dense or convolution kernel, all
    channels of a depthwise one. A column takes one byte in a row of up to 256 and two in a longer one; the end of a
    row takes two.
    """
    values = columns = rows = dense = 0
    for target in find_prunable_variables(model).prunable:
        weights = target.tensor.numpy()
        depthwise = "Depthwise" in type(target.layer).__name__
        row = weights.shape[-2] * weights.shape[-1] if depthwise else weights.shape[-2]
        kept = int(np.count_nonzero(weights))
        values += 4 * kept
        columns += kept * (1 if row <= 256 else 2)
        rows += 2 * (weights.size // row + 1)
        dense += 4 * weights.size
    return values, columns, rows, dense


def attention() -> Any:
    """Make a subclassed model with attention."""

    class Reader(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.attend = keras.layers.MultiHeadAttention(2, 16, name="attend")
            self.hidden = keras.layers.Dense(64, activation="relu", name="hidden")
            self.pool = keras.layers.GlobalAveragePooling1D()
            self.head = keras.layers.Dense(10, name="head")

        def call(self, x: Any) -> Any:
            return self.head(self.pool(self.hidden(self.attend(x, x))))

    model = Reader()
    model(np.zeros((1, 8, 32), "float32"))
    return model


def separable() -> Any:
    """Make a functional tf_keras model with separable and transposed convolutions and a residual connection."""
    inputs = tf_keras.Input((16, 16, 8))
    x = tf_keras.layers.Conv2D(32, 3, padding="same", activation="relu")(inputs)
    y = tf_keras.layers.SeparableConv2D(32, 3, padding="same")(tf_keras.layers.BatchNormalization()(x))
    x = tf_keras.layers.Conv2DTranspose(16, 3, strides=2)(tf_keras.layers.Add()([x, y]))
    return tf_keras.Model(inputs, tf_keras.layers.Dense(10)(tf_keras.layers.GlobalAveragePooling2D()(x)))


def recurrent() -> Any:
    """Make a recurrent model, which the converter does for one example a run."""
    return keras.Sequential([keras.Input((6, 32)), keras.layers.GRU(64), keras.layers.Dense(10)])


MODELS: dict[str, Callable[[], Any]] = {
    "LeNet-300-100": functools.partial(tpi.models.lenet_300_100, seed=0),
    "LeNet-5": functools.partial(tpi.models.lenet_5, seed=0),
    "MobileNet 0.5, 96x96": functools.partial(mobilenet, 0.5, 10),
    "separable (tf_keras)": separable,
    "attention (subclassed)": attention,
    "recurrent (GRU)": recurrent,
}


def matrix(names: Iterable[str] = tuple(MODELS)) -> dict[str, Any]:
    """Every model, sparsity, way to quantize and choice of `sparse`: verified, fallen back or refused, with reasons."""
    result: dict[str, Any] = {}
    for name, sparsity in itertools.product(names, (0.5, 0.9, 0.95, 0.99)):
        keras.utils.set_random_seed(0)
        model = pruned(MODELS[name](), sparsity, method="erk")
        signature = find_signature(model)
        examples = signature.synthetic(16)
        forward = InferenceFunction(model, signature)
        reference = forward.reference(examples)
        inputs = dict(zip((spec.name for spec in signature.inputs), examples, strict=True))
        cells = result[f"{name}, {sparsity:.0%}"] = {}
        converted = convert(forward, WAYS[:-1], examples, extra=WAYS[-1])
        # The three choices of `sparse` have two files between them.
        check = functools.cache(functools.partial(verify, inputs=inputs, reference=reference))
        for way, sparse in itertools.product(WAYS, ("auto", True, False)):
            try:
                if way not in converted.files:
                    raise ExportError(f"The TFLite converter can't do it. {converted.extra_error}")
                cell = outcome(select_file(converted.files[way], way, sparse, functools.partial(check, quantize=way)))
            except ExportError as error:
                cell = {"is": "refused", "reason": str(error)}
            cells[f"{way or 'float32'} {sparse}"] = cell
        print(f"{name}, {sparsity:.0%}: {collections.Counter(c['is'] for c in cells.values())}", file=sys.stderr)
    return result


def outcome(chosen: SelectedFile) -> dict[str, Any]:
    """Return what became of a cell whose file was verified."""
    stored = "zeros left out" if chosen.sparse else "zeros stored"
    return {
        "is": "verified" if chosen.fallback is None else "fallback",
        "file": stored,
        "bytes": len(chosen.file),
        "rms_difference": chosen.agreement.rms_difference,
        "interpreters": chosen.agreement.interpreters,
        "reason": chosen.fallback,
    }


def exports(rounds: int = 10) -> dict[str, Any]:
    """Time exports of LeNet-5 by `export_tflite` and by an exporter, in turns; the first one counts apart."""
    model = pruned(tpi.models.lenet_5(seed=0), 0.95, method="erk")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        before = time.perf_counter()
        with tpi.exporter() as export:
            export(model, path, measure=False)
            result["first_seconds"] = time.perf_counter() - before
            for measure in (True, False):
                seconds: dict[str, list[float]] = collections.defaultdict(list)
                for _ in range(rounds):
                    for name, function in (("export_tflite", tpi.export_tflite), ("exporter", export)):
                        seconds[name].append(function(model, path, measure=measure).seconds)
                medians = {name: float(np.median(values)) for name, values in seconds.items()}
                result[f"measure={measure}"] = {
                    "median_seconds": medians,
                    "times_faster": medians["export_tflite"] / medians["exporter"],
                    "seconds": seconds,
                }
    return result


def speed_table(result: dict[str, Any]) -> str:
    """Microseconds of a run, by mask."""
    head = "| mask | dense float32 | dense int8 | this file | times faster | the same, caches emptied | which kernel |"
    rows = [head, "|---|---|---|---|---|---|---|"]
    for name, row in result.items():
        times = [f"{1e6 * row['seconds'][file]:,.0f}" for file in ("dense float32", "dense int8", "this file")]
        cold = [f"{1e6 * seconds:,.0f}" for seconds in row["seconds_empty_caches"].values()]
        emptied = f"{row['times_faster_empty_caches']:.1f} ({', '.join(cold)})"
        rows.append(f"| {name} | {' | '.join(times)} | {row['times_faster']:.1f} | {emptied} | {row['kernels'][0]} |")
    return "\n".join(rows)


def sizes_table(result: dict[str, Any]) -> str:
    """Bytes, by model and sparsity."""
    heads = ["model", "dense", "this file", "gzipped", "values", "columns", "ends of rows", "the rest"]
    heads += ["file / sum of the four", "file / sum without ends of rows"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    keys = ("dense_bytes", "bytes", "gzip_bytes", "value_bytes", "column_index_bytes", "row_index_bytes")
    for name, row in result.items():
        numbers = [f"{row[key]:,}" for key in (*keys, "unprunable_bytes")]
        ratios = [f"{row[key]:.3f}" for key in ("to_bound", "to_bound_without_row_index")]
        rows.append(f"| {name} | {' | '.join([*numbers, *ratios])} |")
    return "\n".join(rows)


def matrix_table(result: dict[str, Any]) -> str:
    """Return a row for each model and sparsity, reasons as numbers; the counts and reasons below."""
    ways = [way or "float32" for way in WAYS]
    rows = [f"| `sparse=` | {' | '.join(f'{way}: auto | True | False' for way in ways)} |", "|---" * 13 + "|"]
    reasons: dict[str, int] = {}
    counts: collections.Counter[str] = collections.Counter()
    for name, row in result.items():
        shown = []
        for way, sparse in itertools.product(ways, ("auto", True, False)):
            cell = row[f"{way} {sparse}"]
            counts[cell["is"]] += 1
            mark = {"zeros left out": "left out", "zeros stored": "stored"}.get(cell.get("file"), "refused")
            if cell["reason"]:
                reason = re.sub(r"\d+% of", "so many of", re.sub(r"\s+", " ", cell["reason"]))
                mark += f" [{reasons.setdefault(reason, len(reasons) + 1)}]"
            shown.append(mark)
        rows.append(f"| {name} | {' | '.join(shown)} |")
    total = sum(counts.values())
    summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    cells = [cell for row in result.values() for cell in row.values()]
    unverified = sum("file" in cell and not cell["interpreters"] for cell in cells)
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([f"{total} cells: {summary}; {unverified} files unverified.", "", *rows, "", *notes])


BENCHMARKS = {"speed": speed, "sizes": sizes, "matrix": matrix, "exports": exports}
TABLES = {"speed": speed_table, "sizes": sizes_table, "matrix": matrix_table}


def write_page(page: Path, result: dict[str, Any]) -> None:
    """Put each table between its marks in the page."""
    text = page.read_text()
    for name, table in TABLES.items():
        if name in result:
            written = f"<!-- {name} -->\n{table(result[name])}\n<!-- end -->"
            text, found = re.subn(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, w=written: w, text, flags=re.DOTALL)
            if not found:
                raise SystemExit(f"{page} has no place for the table {name!r}: <!-- {name} --> ... <!-- end -->")
    page.write_text(text)


def joined(results: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one; the rows of the matrix from all of them."""
    together: dict[str, Any] = {}
    for result in results:
        for name, rows in result.items():
            together[name] = {**together.get(name, {}), **rows}
    return together


def main() -> None:
    """Run the benchmarks named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="which ones; all by default")
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="rows of the matrix")
    parser.add_argument("--from-json", type=Path, nargs="+", help="take the numbers of earlier runs, joined")
    options = parser.parse_args()
    if options.from_json:
        result = joined([json.loads(path.read_text()) for path in options.from_json])
    else:
        runs = {**BENCHMARKS, "matrix": functools.partial(matrix, options.models)}
        result = {name: runs[name]() for name in options.names or runs}
        versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}
        result["machine"] = {"cpu": describe_cpu(), "python": platform.python_version(), **versions}
    if options.page:
        write_page(options.page, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
