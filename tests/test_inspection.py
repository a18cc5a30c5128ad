"""What is inside a TFLite file: compared with the Keras weights, an independent encoder, and what really runs."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command import call
from rich.console import Console
from tensorflow.lite.python import schema_py_generated as schema
from tflite_files import (
    DEFAULT,
    SPARSE,
    changed,
    converted,
    dense_model,
    operators,
    run_in_litert,
    sparse_kernel,
)

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export.inspection import Inspection, inspect, inspect_file
from tfprune_init.export.kernels import KERNELS, find_uses
from tfprune_init.export.sparse_reader import count_index_bytes, count_zeros, name_encoding, to_dense
from tfprune_init.export.tflite_graph import Graph, Operator, Subgraph, Tensor, read_graph

# --- which kernel runs: said, and seen ---------------------------------------------------------------------------

WIDTH = 64

FILES = {
    # name: (share of zeros, block, inputs, options of the converter) -> encoding, kernel, a word of the reason
    "plain": ((0.9, 1, WIDTH, (), {}), ("dense", "dense", "multiplies by its zeros")),
    "plain float16": ((0.9, 1, WIDTH, (DEFAULT,), {"float16": True}), ("dense", "dense", "multiplies by its zeros")),
    "plain int8": ((0.9, 1, WIDTH, (DEFAULT,), {"integers": True}), ("dense", "dense", "multiplies by its zeros")),
    "random": ((0.9, 1, WIDTH, (SPARSE,), {}), ("CSR", "densify", "then runs dense")),
    "blocks": ((0.9, 4, WIDTH, (SPARSE,), {}), ("block 1x4", "sparse", "blocks of 4 inputs")),
    "few left": ((0.98, 1, WIDTH, (SPARSE,), {}), ("block 1x4", "sparse", "blocks of 4 inputs")),
    "odd inputs": ((0.9, 4, 62, (SPARSE,), {}), ("block 1x4", "broken", "left out the last 2")),
    "float16 random": ((0.9, 1, WIDTH, (DEFAULT, SPARSE), {"float16": True}), ("CSR", "densify", "made float32")),
    "float16 blocks": (
        (0.9, 4, WIDTH, (DEFAULT, SPARSE), {"float16": True}),
        ("block 1x4", "broken", "DEQUANTIZE takes block 1x4 float16 values for dense"),
    ),
    "dynamic random": ((0.9, 1, WIDTH, (DEFAULT, SPARSE), {}), ("CSR", "broken", "doesn't load")),
    "dynamic blocks": ((0.98, 16, WIDTH, (DEFAULT, SPARSE), {}), ("block 1x16", "broken", "version 12")),
    "int8 random": ((0.9, 1, WIDTH, (DEFAULT, SPARSE), {"integers": True}), ("CSR", "densify", "LiteRT 2.3.0 refuses")),
    "int8 blocks": (
        (0.9, 16, WIDTH, (DEFAULT, SPARSE), {"integers": True}),
        ("block 1x16", "sparse", "blocks of 16 inputs"),
    ),
}


class Files(dict):
    """By name: a model of one Dense layer, and what the converter makes of it, when it is asked for first."""

    def __missing__(self, name: str) -> tuple[Any, bytes]:
        (share, block, inputs, optimizations, options), _ = FILES[name]
        model = dense_model([sparse_kernel(inputs, WIDTH, share, block)])
        self[name] = model, converted(model, *optimizations, **options)
        return self[name]


@pytest.fixture(scope="module")
def files() -> Files:
    return Files()


def weight_row(inspection: Inspection) -> Any:
    rows = [row for row in inspection.tensors if row.operator == "FULLY_CONNECTED"]
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("name", FILES)
def test_kernel_is_what_really_runs(name: str, files: Files, export: Any, tmp_path: Path) -> None:
    model, file = files[name]
    encoding, kernel, word = FILES[name][1]
    row = weight_row(inspect_file(file))
    assert (row.encoding, row.kernel) == (encoding, kernel)
    assert word in row.reason

    inputs = np.random.default_rng(5).random((1, model.inputs[0].shape[1]), "float32")
    expected = inputs @ model.weights[0].numpy() + model.weights[1].numpy()
    got = run_in_litert(file, inputs, tmp_path, export.run)
    right = got is not None and np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    loads = kernel != "broken" and "refuses" not in row.reason
    assert right == loads


@pytest.mark.parametrize("name", FILES)
def test_zeros_are_those_of_the_model(name: str, files: Files) -> None:
    model, file = files[name]
    kernel = model.weights[0].numpy().T
    inspection = inspect_file(file)
    row = weight_row(inspection)
    tensor = next(t for t in read_graph(file).subgraphs[0].tensors if t.is_weight)
    view = to_dense(tensor)
    assert row.shape == view.shape == kernel.shape
    assert row.sparsity == np.mean(view == 0)
    assert inspection.sparsity == row.sparsity
    assert inspection.weights == kernel.size
    if "float16" in name:
        np.testing.assert_array_equal(view, kernel.astype("float16"))
    elif tensor.dtype == "FLOAT32":
        # The converter drops what doesn't fill a block.
        whole = 60 if name == "odd inputs" else kernel.shape[1]
        np.testing.assert_array_equal(view[:, :whole], kernel[:, :whole])
        assert not view[:, whole:].any()
    else:
        steps = view * (np.abs(kernel).max(axis=1, keepdims=True) / 127)
        np.testing.assert_allclose(steps, kernel, atol=np.abs(kernel).max() / 127)
        assert not view[kernel == 0].any()


def set_version(version: int) -> Any:
    def change(model: Any) -> None:
        for operator in operators(model, "FULLY_CONNECTED"):
            model.operatorCodes[operator.opcodeIndex].version = version

    return change


def without_densify(model: Any) -> None:
    """Let FULLY_CONNECTED read the encoded weight itself, at the version that XNNPACK leaves alone."""
    densify, main = operators(model, "DENSIFY"), model.subgraphs[0]
    encoded = {one.outputs[0]: one.inputs[0] for one in densify}
    for operator in operators(model, "FULLY_CONNECTED"):
        operator.inputs = np.array([encoded.get(index, index) for index in operator.inputs], np.int32)
    main.operators = [operator for operator in main.operators if operator not in densify]
    set_version(8)(model)


@pytest.mark.parametrize(
    ("name", "change", "kernel", "word"),
    [
        ("blocks", set_version(7), "broken", "version 7"),
        ("random", without_densify, "sparse", "one by one"),
        ("dynamic blocks", set_version(8), "sparse", "blocks of 16"),
        ("dynamic random", without_densify, "broken", "no kernel for CSR int8"),
        ("int8 random", without_densify, "broken", "no kernel for CSR int8"),
    ],
)
def test_what_the_version_decides(
    name: str, change: Any, kernel: str, word: str, files: Files, export: Any, tmp_path: Path
) -> None:
    model, file = files[name]
    file = changed(file, change)
    row = weight_row(inspect_file(file))
    assert row.kernel == kernel
    assert word in row.reason
    inputs = np.random.default_rng(5).random((1, WIDTH), "float32")
    expected = inputs @ model.weights[0].numpy() + model.weights[1].numpy()
    got = run_in_litert(file, inputs, tmp_path, export.run)
    right = got is not None and np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    assert right == (kernel == "sparse")


@pytest.mark.parametrize(("inputs", "kernel"), [(4096, "sparse"), (4112, "broken")])
def test_numbers_of_blocks_that_fit_no_byte(inputs: int, kernel: str) -> None:
    """The kernel for float inputs keeps the number of a block in a byte."""
    weights = np.zeros((inputs, 16), "float32")
    weights[-16:] = 1.0
    file = changed(converted(dense_model([weights]), DEFAULT, SPARSE), set_version(8))
    row = weight_row(inspect_file(file))
    assert (row.encoding, row.kernel) == ("block 1x16", kernel)


def test_number_of_blocks_in_a_row_must_fit_a_byte() -> None:
    weights = np.zeros((4096, 64), "float32")
    weights[:, 0] = 1.0
    file = changed(converted(dense_model([weights]), DEFAULT, SPARSE), set_version(8))
    row = weight_row(inspect_file(file))
    assert (row.encoding, row.kernel) == ("block 1x16", "broken")


def test_convolutions_and_embeddings() -> None:
    layers = keras.layers
    words = keras.Input((8,))
    x = layers.Reshape((8, 8, 1))(layers.Embedding(50, 8)(words))
    x = layers.Conv2D(16, 3, use_bias=False)(x)
    model = keras.Model(words, layers.Dense(4)(layers.Flatten()(x)))
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable.numpy() * (random.random(variable.shape) >= 0.8))
    rows = {row.operator: row for row in inspect_file(converted(model, SPARSE)).tensors}
    assert {name: row.kernel for name, row in rows.items()} == {
        "GATHER": "dense",
        "CONV_2D": "densify",
        "FULLY_CONNECTED": "densify",
    }
    plain = {row.operator: row for row in inspect_file(converted(model)).tensors}
    assert "rows it is asked for" in rows["GATHER"].reason
    for name, row in rows.items():
        variable = {"GATHER": 0, "CONV_2D": 1, "FULLY_CONNECTED": 2}[name]
        assert row.sparsity == plain[name].sparsity == np.mean(model.trainable_variables[variable].numpy() == 0)


# --- encodings, against an encoder that walks the array ----------------------------------------------------------


def encode(array: np.ndarray, block: dict[int, int], order: list[int], sparse: set[int], width: int) -> Any:
    """TFLite's encoding by its definition: nested levels over the dimensions and the blocks of some of them.

    Args:
        array: what to encode.
        block: size of the blocks by dimension.
        order: numbers of the levels, outermost first; those of blocks follow those of dimensions.
        sparse: numbers of the levels that store only what isn't zero.
        width: bits of an index.
    """
    blocked = sorted(block)
    sizes = {d: size // block.get(d, 1) for d, size in enumerate(array.shape)}
    sizes |= {array.ndim + place: block[d] for place, d in enumerate(blocked)}

    def at(steps: dict[int, int]) -> np.ndarray:
        """Whatever is below these steps."""
        index: list[Any] = []
        for d, size in enumerate(array.shape):
            inner = array.ndim + blocked.index(d) if d in block else None
            chosen = [
                place
                for place in range(size)
                if steps.get(d, place // block.get(d, 1)) == place // block.get(d, 1)
                and (inner is None or steps.get(inner, place % block[d]) == place % block[d])
            ]
            index.append(chosen)
        return array[np.ix_(*index)]

    entries, metadata = [{}], []
    for number in order:
        level = schema.DimensionMetadataT()
        level.format, level.denseSize = int(number in sparse), 0 if number in sparse else sizes[number]
        below, segments, indices = [], [0], []
        for entry in entries:
            for step in range(sizes[number]):
                if number not in sparse or at({**entry, number: step}).any():
                    below.append({**entry, number: step})
                    indices.append(step)
            segments.append(len(indices))
        if number in sparse:
            kind = {8: schema.Uint8VectorT, 16: schema.Uint16VectorT, 32: schema.Int32VectorT}[width]
            for name, values in (("arraySegments", segments), ("arrayIndices", indices)):
                vector = kind()
                vector.values = np.array(values, {8: "u1", 16: "<u2", 32: "<i4"}[width])
                setattr(level, name, vector)
        entries = below
        metadata.append(level)
    parameters = schema.SparsityParametersT()
    parameters.traversalOrder, parameters.blockMap = np.array(order), np.array(blocked)
    parameters.dimMetadata = metadata
    return parameters, np.array([at(entry).item() for entry in entries], array.dtype)


def tensor(
    values: np.ndarray, shape: tuple[int, ...], dtype: str = "FLOAT32", encoding: Any = None, **given: Any
) -> Any:
    unquantized = {"scales": np.zeros(0, "float32"), "zero_points": np.zeros(0, np.int64), "quantized_dimension": 0}
    fields = {**unquantized, "external": False, **given}
    data = np.frombuffer(values.tobytes(), np.uint8)
    return Tensor("w", shape, shape, dtype, 1, data, encoding=encoding, **fields)


ENCODINGS = [
    # shape, block, order of levels, sparse levels, bits of an index, name
    ((6, 8), {}, [0, 1], {1}, 8, "CSR"),
    ((6, 8), {}, [0, 1], {0, 1}, 16, "CSR"),
    ((6, 8), {}, [1, 0], {0}, 32, "CSR"),
    ((6, 8), {1: 4}, [0, 1, 2], {1}, 8, "block 1x4"),
    ((6, 8), {0: 2, 1: 4}, [0, 1, 2, 3], {1}, 8, "block 2x4"),
    ((6, 8), {0: 3}, [1, 0, 2], {0}, 16, "block 3x1"),
    ((3, 2, 2, 5), {}, [0, 1, 2, 3], {3}, 8, "CSR"),
    ((3, 2, 2, 4), {3: 4}, [0, 1, 2, 3, 4], {3}, 8, "block 1x1x1x4"),
    ((4, 3, 2), {2: 2, 0: 2}, [2, 0, 1, 4, 3], {0, 1}, 8, "block 2x1x2"),
]


@pytest.mark.parametrize(("shape", "block", "order", "sparse", "width", "name"), ENCODINGS)
@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_encodings(shape: tuple, block: dict, order: list, sparse: set, width: int, name: str, share: float) -> None:
    random = np.random.default_rng(3)
    array = (random.normal(size=shape) * (random.random(shape) >= share)).astype("float32")
    encoding, values = encode(array, block, order, sparse, width)
    made = tensor(values, shape, encoding=encoding)
    np.testing.assert_array_equal(to_dense(made), array)
    assert count_zeros(made) == np.sum(array == 0)
    assert name_encoding(made) == name
    arrays = [(d.arraySegments, d.arrayIndices) for d in encoding.dimMetadata if d.format]
    assert count_index_bytes(made) == sum(len(one.values) * width // 8 for one in itertools.chain(*arrays))


def spoil(encoding: Any, what: str) -> None:
    level = encoding.dimMetadata[1]
    if what == "index":
        level.arrayIndices.values = level.arrayIndices.values + np.uint8(200)
    elif what == "segments":
        level.arraySegments.values = level.arraySegments.values[::-1]
    elif what == "falling segments":
        level.arraySegments.values[1:3] = [9, 0]
    elif what == "fewer segments":
        level.arraySegments.values = level.arraySegments.values[:-1]
    elif what == "order":
        encoding.traversalOrder = np.array([0, 0, 1])
    elif what == "levels":
        encoding.dimMetadata = encoding.dimMetadata[:-1]
    elif what == "block":
        encoding.blockMap = np.array([7])
    elif what == "size":
        encoding.dimMetadata[0].denseSize = 10**9
    elif what == "empty":
        encoding.dimMetadata[0].denseSize = 0


@pytest.mark.parametrize(
    "what",
    ["index", "segments", "falling segments", "fewer segments", "order", "levels", "block", "size", "empty", "values"],
)
def test_damaged_encodings_are_refused(what: str) -> None:
    array = np.arange(48, dtype="float32").reshape(6, 8)
    encoding, values = encode(array, {1: 4}, [0, 1, 2], {1}, 8)
    spoil(encoding, what)
    made = tensor(values[:-4] if what == "values" else values, (6, 8), encoding=encoding)
    for function in (count_zeros, to_dense):
        with pytest.raises(ExportError, match=r"damaged.*'w', shape"):
            function(made)


@pytest.mark.parametrize("dtype", ["FLOAT32", "FLOAT16", "BFLOAT16"])
def test_an_incomplete_value_is_refused(dtype: str) -> None:
    array = np.arange(48, dtype="float32").reshape(6, 8)
    encoding, values = encode(array, {1: 4}, [0, 1, 2], {1}, 8)
    made = tensor(np.frombuffer(values.tobytes()[:-1], np.uint8), (6, 8), dtype, encoding=encoding)
    with pytest.raises(ExportError, match=rf"damaged.*'w', shape \(6, 8\), has \d+ bytes of {dtype}"):
        count_zeros(made)


@pytest.mark.parametrize(
    ("points", "dimension"), [([0], 0), ([2], 0), ([0, 3, 0, 1], 0), ([0, 1, 2, 0, 0, 3], 1)], ids=str
)
@pytest.mark.parametrize("encoded", [False, True])
def test_zeros_are_counted_as_in_the_dense_view(encoded: bool, points: list[int], dimension: int) -> None:
    array = np.random.default_rng(0).integers(0, 5, (4, 6)).astype("int8") * np.array([[1], [0], [1], [1]], "int8")
    encoding, values = encode(array, {}, [0, 1], {1}, 8) if encoded else (None, array)
    made = tensor(values, (4, 6), "INT8", encoding, zero_points=np.array(points), quantized_dimension=dimension)
    np.testing.assert_array_equal(to_dense(made), array)
    assert count_zeros(made) == np.sum(array == np.reshape(points, (-1, 1) if dimension == 0 else (1, -1)))


def test_zero_points_of_another_shape_are_refused_and_large_shapes_take_no_memory() -> None:
    array = np.eye(4, 6, dtype="int8")
    with pytest.raises(ExportError, match="3 zero points along dimension 0"):
        count_zeros(tensor(array, (4, 6), "INT8", zero_points=np.array([1, 0, 0])))
    with pytest.raises(ExportError, match="4 zero points along dimension 7"):
        count_zeros(tensor(array, (4, 6), "INT8", zero_points=np.array([1, 0, 0, 0]), quantized_dimension=7))
    encoding, values = encode(array, {}, [0, 1], {1}, 8)
    huge = tensor(values, (4, 10**12), "INT8", encoding, zero_points=np.array([1, 0, 0, 0]))
    # Of the first row, one value is 1; of the others all that is left out.
    assert count_zeros(huge) == 1 + 3 * (10**12 - 1)


def test_a_graph_that_runs_none_of_the_file_is_refused() -> None:
    file = converted(keras.Sequential([keras.Input((3, 2), batch_size=1), keras.layers.SimpleRNN(2)]))

    def change(model: Any) -> None:
        (loop,) = operators(model, "WHILE")
        loop.builtinOptions.bodySubgraphIndex = 9

    with pytest.raises(ExportError, match=r"damaged: WHILE \d+ runs graph 9 of 3"):
        inspect_file(changed(file, change))


@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        ("INT4", [0x0F, 0x80, 0x07], [[-1, 0, 0], [-8, 7, 0]]),
        ("UINT4", [0x0F, 0x80, 0x07], [[15, 0, 0], [8, 7, 0]]),
        ("INT2", [0b11_10_01_00, 0b00_01], [[0, 1, -2], [-1, 1, 0]]),
        ("INT8", [0, 255, 1, 2, 0, 3], [[0, -1, 1], [2, 0, 3]]),
        ("UINT8", [0, 255, 1, 2, 0, 3], [[0, 255, 1], [2, 0, 3]]),
        ("BFLOAT16", [0x80, 0x3F, 0, 0x80, 0, 0, 0, 0xC0, 0, 0, 0, 0], [[1.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]),
    ],
)
def test_types(dtype: str, stored: list[int], expected: list) -> None:
    made = tensor(np.array(stored, np.uint8), (2, 3), dtype)
    np.testing.assert_array_equal(to_dense(made), expected)
    assert count_zeros(made) == np.sum(np.array(expected) == 0)


@pytest.mark.parametrize(
    ("points", "dimension", "expected"), [([2], 0, 2), ([2, 0], 0, 2), ([1, 2, 3], 1, 1), ([0], 0, 1)]
)
def test_zero_is_the_zero_point(points: list[int], dimension: int, expected: int) -> None:
    values = np.array([[2, 1, 4], [5, 2, 0]], np.uint8)
    made = tensor(values, (2, 3), "UINT8", zero_points=np.array(points), quantized_dimension=dimension)
    assert count_zeros(made) == expected


# --- the whole file ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_layers() -> bytes:
    return converted(dense_model([sparse_kernel(40, 32, 0.9), sparse_kernel(32, 8, 0.5)]))


def test_bytes_add_up(two_layers: bytes) -> None:
    inspection = inspect_file(two_layers)
    assert inspection.bytes == len(two_layers)
    assert inspection.value_bytes == 4 * (40 * 32 + 32 * 8)
    assert inspection.other_bytes == 4 * 8  # the converter adds the first bias to the second
    assert inspection.index_bytes == 0
    assert 0 < inspection.structure_bytes < 3000
    assert inspection.weights == 40 * 32 + 32 * 8
    assert inspection.operators == {"FULLY_CONNECTED": 2}
    assert (inspection.subgraphs, inspection.arm, inspection.densifies) == (1, "dense", False)
    (signature,) = inspection.signatures
    assert [port.shape for port in (*signature.inputs, *signature.outputs)] == [(None, 40), (None, 8)]
    assert [port.dtype for port in (*signature.inputs, *signature.outputs)] == ["float32", "float32"]
    assert [row.op_index for row in sorted(inspection.tensors, key=lambda row: -row.bytes)] == [0, 1]


def test_encoded_bytes_add_up(files: Files) -> None:
    for _, file in map(files.__getitem__, FILES):
        inspection = inspect_file(file)
        row = weight_row(inspection)
        assert row.bytes == inspection.value_bytes + inspection.index_bytes
        assert row.index_bytes == inspection.index_bytes
        assert (row.index_bytes > 0) == (row.encoding != "dense")
        assert inspection.densifies == (inspection.operators.get("DENSIFY", 0) > 0)
        assert row.kernel in KERNELS


def test_shared_buffer_counts_once() -> None:
    model = dense_model([sparse_kernel(32, 32, 0.5, seed=seed) for seed in (0, 1)], bias=False)
    file = converted(model)

    def share(model: Any) -> None:
        first, second = (one.inputs[1] for one in operators(model, "FULLY_CONNECTED"))
        tensors = model.subgraphs[0].tensors
        tensors[second].buffer = tensors[first].buffer

    assert inspect_file(file).weights == 2 * 32 * 32
    inspection = inspect_file(changed(file, share))
    assert inspection.weights == 32 * 32
    assert inspection.value_bytes == 4 * 32 * 32
    assert inspection.other_bytes == inspect_file(file).other_bytes
    assert len({row.buffer for row in inspection.tensors}) == 1
    assert len(inspection.tensors) == 2
    shown = io.StringIO()
    inspection.print(shown)
    assert shown.getvalue().count("shared") == 1


def test_a_weight_with_two_readers_has_two_rows() -> None:
    layer = keras.layers.Dense(16, use_bias=False)
    inputs = keras.Input((16,))
    inspection = inspect_file(converted(keras.Model(inputs, layer(layer(inputs)))))
    assert [row.op_index for row in inspection.tensors] == [0, 1]
    assert inspection.weights == 256


def test_unread_and_external_weights(two_layers: bytes) -> None:
    def change(model: Any) -> None:
        main = model.subgraphs[0]
        _, second = operators(model, "FULLY_CONNECTED")
        external = main.tensors[second.inputs[1]]
        external.buffer, external.externalBuffer = 0, 1
        main.operators = [second]

    rows = {row.kernel: row for row in inspect_file(changed(two_layers, change)).tensors}
    assert set(rows) == {"unused", "unknown"}
    assert (rows["unused"].operator, rows["unused"].op_index, rows["unused"].subgraph) == ("", -1, -1)
    assert (rows["unknown"].encoding, rows["unknown"].sparsity, rows["unknown"].bytes) == ("in another file", None, 0)


def test_buffers_behind_the_flatbuffer(two_layers: bytes) -> None:
    """As in files of more than 2 GB, whose buffers no offset inside the flatbuffer could reach."""
    plain = inspect_file(two_layers)
    moved: list[bytes] = []

    def move(start: int) -> Any:
        def change(model: Any) -> None:
            moved.clear()
            for buffer in model.buffers:
                if buffer.data is not None and len(buffer.data):
                    buffer.offset, buffer.size = start + sum(map(len, moved)), len(buffer.data)
                    moved.append(bytes(buffer.data))
                    buffer.data = None

        return change

    size = len(changed(two_layers, move(10**6)))
    file = changed(two_layers, move(size)) + b"".join(moved)
    inspection = inspect_file(file)
    assert [row.sparsity for row in inspection.tensors] == [row.sparsity for row in plain.tensors]
    assert inspection.value_bytes == plain.value_bytes
    with pytest.raises(ExportError, match="truncated: a buffer ends at byte"):
        inspect_file(file[:-1])


def test_recurrent_layers_are_followed_into_their_loops() -> None:
    model = keras.Sequential([keras.Input((6, 8), batch_size=1), keras.layers.LSTM(16)])
    inspection = inspect_file(converted(model))
    assert inspection.subgraphs == 3
    rows = {row.shape: row for row in inspection.tensors if row.operator == "FULLY_CONNECTED" and row.shape[0] == 64}
    assert set(rows) == {(64, 8), (64, 16)}
    assert {row.subgraph for row in rows.values()} == {2}
    shown = io.StringIO()
    inspection.print(shown)
    assert f"2.{rows[64, 8].op_index}" in shown.getvalue()


def test_weights_passed_into_a_loop_are_followed() -> None:
    """A constant that the main graph hands to a loop belongs to the operator in the loop's body."""
    model = keras.Sequential([keras.Input((6, 8), batch_size=1), keras.layers.LSTM(16)])

    def hand_over(model: Any) -> None:
        main, _, body = model.subgraphs
        (loop,) = operators(model, "WHILE")
        index = next(i for i, one in enumerate(body.tensors) if one.shape is not None and list(one.shape) == [64, 8])
        moved = schema.TensorT.InitFromObj(_serialize(body.tensors[index]))
        main.tensors.append(moved)
        body.tensors[index].buffer = 0
        for graph in model.subgraphs[1:]:
            if graph is not body:
                graph.tensors.append(schema.TensorT.InitFromObj(_serialize(body.tensors[index])))
            place = index if graph is body else len(graph.tensors) - 1
            graph.inputs = np.append(graph.inputs, np.int32(place))
        body.outputs = np.append(body.outputs, np.int32(index))
        loop.inputs = np.append(loop.inputs, np.int32(len(main.tensors) - 1))

    rows = [row for row in inspect_file(changed(converted(model), hand_over)).tensors if row.shape == (64, 8)]
    assert [(row.operator, row.subgraph, row.kernel) for row in rows] == [("FULLY_CONNECTED", 2, "dense")]


def test_both_branches_of_a_condition_are_followed() -> None:
    def subgraph(index: int, tensors: int, *made: Operator, inputs: tuple = ()) -> Subgraph:
        return Subgraph(index, (tensor(np.ones(4, "float32"), (2, 2)),) * tensors, made, inputs, ())

    branches = {"thenSubgraphIndex": 1, "elseSubgraphIndex": 2}
    main = subgraph(0, 4, Operator(0, "IF", 1, (0, 1, 2), (3,), branches))
    then = subgraph(1, 3, Operator(0, "MUL", 1, (0, 1), (2,), {}), inputs=(0, 1))
    other = subgraph(2, 3, Operator(0, "ADD", 1, (0, 0), (2,), {}), inputs=(0, 1))
    graph = Graph((main, then, other), {})
    assert [use.operator.name for use in find_uses(graph, main, 1)] == ["MUL", "ADD", "ADD"]
    assert [use.operator.name for use in find_uses(graph, main, 2)] == ["MUL"]
    assert find_uses(graph, main, 0) == []


def _serialize(stored: Any) -> Any:
    import flatbuffers

    builder = flatbuffers.Builder(256)
    builder.Finish(stored.Pack(builder))
    return schema.Tensor.GetRootAs(builder.Output(), 0)


# --- errors ------------------------------------------------------------------------------------------------------


def test_what_is_no_file_or_no_tflite_file(tmp_path: Path, two_layers: bytes) -> None:
    with pytest.raises(OptionError, match=r"no file of that name.*nothing\.tflite"):
        inspect(tmp_path / "nothing.tflite")
    with pytest.raises(OptionError, match="a folder"):
        inspect(tmp_path)
    other = tmp_path / "other.tflite"
    for content in (b"", b"TFL3", b"PK\x03\x04 a zip file, not a model"):
        other.write_bytes(content)
        with pytest.raises(ExportError, match=r"other\.tflite: Not a TFLite file"):
            inspect(other)
    other.write_bytes(two_layers[:-100])
    with pytest.raises(ExportError, match=r"other\.tflite: The TFLite file is "):
        inspect(other)


def test_truncated_files_never_pass_for_whole_ones(files: Files) -> None:
    for _, file in map(files.__getitem__, FILES):
        for length in np.linspace(8, len(file) - 8, 12, dtype=int):
            with pytest.raises(ExportError):
                inspect_file(file[:length])


def test_damaged_files_are_read_or_refused(files: Files) -> None:
    """Whatever a byte says: facts, or an ExportError, never another exception."""
    random = np.random.default_rng(0)
    refused = 0
    for _, file in map(files.__getitem__, FILES):
        for _ in range(25):
            damaged = bytearray(file)
            for place in random.integers(0, len(file), 3):
                damaged[place] = random.integers(0, 256)
            try:
                inspect_file(bytes(damaged)).to_dict()
            except ExportError:
                refused += 1
    assert refused > 20


@pytest.mark.parametrize("rows", [31, 33])
def test_a_shape_that_needs_other_bytes(rows: int, two_layers: bytes) -> None:
    def change(model: Any) -> None:
        weight = model.subgraphs[0].tensors[operators(model, "FULLY_CONNECTED")[0].inputs[1]]
        weight.shape = np.array([rows, 40], np.int32)

    with pytest.raises(ExportError, match=f"needs {4 * rows * 40:,} bytes and has 5,120"):
        inspect_file(changed(two_layers, change))


def test_operators_of_files_older_than_their_field(two_layers: bytes) -> None:
    def change(model: Any) -> None:
        for code in model.operatorCodes:
            code.builtinCode = 0

    assert inspect_file(changed(two_layers, change)).operators == {"FULLY_CONNECTED": 2}


def test_operator_without_its_options(two_layers: bytes) -> None:
    def change(model: Any) -> None:
        for operator in operators(model, "FULLY_CONNECTED"):
            operator.builtinOptions = None

    graph = read_graph(changed(two_layers, change))
    with pytest.raises(ExportError, match="FULLY_CONNECTED 0 has no option 'keepNumDims'"):
        graph.subgraphs[0].operators[0].option("keepNumDims")


# --- shown and saved ---------------------------------------------------------------------------------------------


def test_shown_and_saved(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(files["blocks"][1])
    inspection = inspect(path)
    inspection.save(tmp_path / "facts.json")
    saved = json.loads((tmp_path / "facts.json").read_text())
    assert saved == inspection.to_dict()
    assert saved["tensors"][0]["encoding"] == "block 1x4"
    assert saved["structure_bytes"] == inspection.structure_bytes
    assert inspection.kernels() == {"sparse": 1}
    for width in (80, 100):
        shown = io.StringIO()
        inspection.show(Console(file=shown, width=width))
        assert max(map(len, shown.getvalue().splitlines())) <= width
        for word in ("block 1x4", "sparse", "90", "64x64", f"{inspection.bytes:,}", "blocks of 4 inputs"):
            assert word in " ".join(shown.getvalue().split())


def test_command(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(files["blocks"][1])
    printed = call("inspect", str(path), "--json", cwd=tmp_path)
    assert (printed.code, json.loads(printed.out)) == (0, inspect(path).to_dict())
    assert "block 1x4" in call("inspect", str(path), cwd=tmp_path).out
    path.write_bytes(b"no model")
    refused = call("inspect", str(path), cwd=tmp_path)
    assert (refused.code, refused.out) == (1, "")
    assert "Not a TFLite file" in refused.err
    assert refused.err.count("\n") == 1
