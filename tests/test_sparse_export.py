"""Zeros left out of TFLite files: what is written, what reads it, which file is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import tf_keras
from tensorflow.lite.python import schema_py_generated as schema
from tflite_files import converted, dense_model

from tfprune_init.errors import ExportError, ModelError
from tfprune_init.export import encoding_choice as choosing
from tfprune_init.export import sparse_writer
from tfprune_init.export.conversion import Converted
from tfprune_init.export.encoding_choice import select_file
from tfprune_init.export.flatbuffer import densify
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.export.latency import Latency, Times
from tfprune_init.export.sparse_reader import to_dense
from tfprune_init.export.sparsification import sparsify
from tfprune_init.export.tflite_graph import read_graph
from tfprune_init.export.verification import Agreement, run_interpreters, verify
from tfprune_init.graph.kernel_axes import KernelAxes
from tfprune_init.selection import Layout, choose_masks

KERAS = {"keras": keras, "tf_keras": tf_keras}


def sparse_array(*shape: int, zeros: float = 0.8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) * (random.random(shape) >= zeros)).astype("float32")


def unpacked(encoded: sparse_writer.Encoded, shape: tuple[int, ...]) -> np.ndarray:
    """The array, by a walk over the levels as the format is described: one loop nested in another."""
    parameters = encoded.parameters
    blocks = [] if parameters.blockMap is None else list(parameters.blockMap)
    found = np.zeros(shape, encoded.values.dtype)
    values = iter(encoded.values)

    def walk(level: int, entry: int, path: list[int]) -> None:
        if level == len(parameters.dimMetadata):
            at = [0] * len(shape)
            for axis, step in zip(parameters.traversalOrder, path, strict=True):
                if axis < len(shape):
                    at[axis] += step * (sparse_writer.BLOCK if axis in blocks else 1)
                else:
                    at[blocks[axis - len(shape)]] += step
            found[tuple(at)] = next(values)
            return
        metadata = parameters.dimMetadata[level]
        if metadata.format == schema.DimensionType.DENSE:
            for step in range(metadata.denseSize):
                walk(level + 1, entry * metadata.denseSize + step, [*path, step])
        else:
            start, end = (int(place) for place in metadata.arraySegments.values[entry : entry + 2])
            for place in range(start, end):
                walk(level + 1, place, [*path, int(metadata.arrayIndices.values[place])])

    walk(0, 0, [])
    assert next(values, None) is None
    return found


@pytest.mark.parametrize("shape", [(5, 7), (1, 9), (6, 3, 2, 4), (1, 3, 3, 8), (300, 2), (2, 300)])
@pytest.mark.parametrize("zeros", [0.0, 0.8, 1.0])
def test_rows_say_where_every_value_is(shape: tuple[int, ...], zeros: float) -> None:
    array = sparse_array(*shape, zeros=zeros)
    for encoded in (sparse_writer.encode_rows(array), sparse_writer.encode_smallest_rows(array)):
        assert (unpacked(encoded, shape) == array).all()
        assert encoded.values.size == encoded.entries == max(1, np.count_nonzero(array))


def test_bytes_of_rows() -> None:
    array = sparse_array(300, 20, zeros=0.9)
    kept = np.count_nonzero(array)
    assert kept > 255
    assert sparse_writer.encode_rows(array).nbytes == 4 * kept + kept + 2 * 301
    # Along the other axis: 2 bytes for each of 300 columns, but 21 ends of rows in place of 301.
    assert sparse_writer.encode_smallest_rows(array).nbytes == min(
        4 * kept + 2 * kept + 2 * 21, sparse_writer.encode_rows(array).nbytes
    )
    half = array.astype("float16")
    assert sparse_writer.encode_rows(half).nbytes == sparse_writer.encode_rows(array).nbytes - 2 * kept
    assert sparse_writer.encode_smallest_rows(sparse_array(2000, 4, zeros=0.99)).parameters.traversalOrder.tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.int32)])
def test_numbers_are_as_narrow_as_they_can_be(count: int, dtype: type) -> None:
    level = sparse_writer.encode_rows(np.ones((1, count), "float32")).parameters.dimMetadata[-1]
    assert level.arraySegments.values.dtype == dtype
    assert level.arraySegments.values.tolist() == [0, count]
    assert level.arrayIndices.values.dtype == (np.uint8 if count <= 256 else np.uint16)


def test_blocks() -> None:
    array = sparse_array(6, 12, zeros=0.9)
    encoded = sparse_writer.encode_blocks(array)
    kept = array.reshape(6, 3, 4).any(-1).sum()
    assert (unpacked(encoded, array.shape) == array).all()
    assert encoded.entries == kept
    assert encoded.nbytes == 4 * 4 * kept + kept + 7
    with pytest.raises(ValueError, match=r"divide by 4. Received: shape \(6, 11\)"):
        sparse_writer.encode_blocks(array[:, :11])


def files_of(
    export: Any, model: Any, ways: list[str | None], examples: int = 8
) -> tuple[Converted, dict[str, Any], dict[str, Any]]:
    """The files of a model, inputs to compare on, and what it gives for them."""
    signature = find_signature(model)
    arrays = signature.synthetic(examples)
    forward = InferenceFunction(model, signature)
    inputs = dict(zip((spec.name for spec in signature.inputs), arrays, strict=True))
    return export.convert(forward, ways, arrays), inputs, forward.reference(arrays)


def prune(model: Any, zeros: float, block: bool = False) -> Any:
    """Kernels with few values, and so large ones that the signal keeps its size from layer to layer."""
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            shape = tuple(variable.shape)
            keep = random.random((-(-shape[0] // 4) if block else shape[0], *shape[1:])) >= zeros
            keep = keep.repeat(4, axis=0)[: shape[0]] if block else keep
            scale = np.sqrt(2 / max(1, keep.sum() / shape[-1]))
            variable.assign(np.where(keep, random.normal(scale=scale, size=shape), 0))
    return model


def all_kinds(K: Any) -> Any:
    """Every operator that takes weights: convolutions, depthwise, transposed, Dense; and a Dense used twice."""
    keras.utils.set_random_seed(0)
    inputs = K.Input((9, 9, 16))
    x = K.layers.Conv2D(48, 3, activation="relu")(inputs)
    x = K.layers.SeparableConv2D(64, 3, activation="relu")(x)
    x = K.layers.Conv2DTranspose(16, 3, strides=2)(x)
    x = K.layers.DepthwiseConv2D(5, depth_multiplier=4)(x)
    x = K.layers.Reshape((49, 64))(x)
    twice = K.layers.Dense(64, activation="relu", name="twice")
    x = K.layers.GlobalAveragePooling1D()(K.layers.Conv1D(64, 3)(twice(twice(x))))
    return K.Model(inputs, K.layers.Dense(40)(K.layers.Dense(130)(x)))


@pytest.fixture(scope="module", params=list(KERAS))
def kinds(request: pytest.FixtureRequest, export: Any) -> Any:
    return files_of(export, prune(all_kinds(KERAS[request.param]), 0.9), [None, "float16", "int8"])


@pytest.mark.parametrize("way", [None, "float16", "int8"])
def test_every_operator_computes_the_same_without_zeros(kinds: Any, way: str | None, export: Any) -> None:
    converted, inputs, reference = kinds
    plain = converted.files[way]
    sparse = sparsify(plain, way)
    assert sparse is not None
    assert len(sparse) < {None: 0.3, "float16": 0.5, "int8": 0.75}[way] * len(plain)
    assert sparsify(plain, way) == sparse  # the same every time
    verify(sparse, inputs, reference, way, run=export.run)
    theirs = run_interpreters(plain, inputs, run=export.run)
    for run, plain_run in zip(run_interpreters(sparse, inputs, run=export.run), theirs, strict=True):
        for name, values in run.outputs.items():
            np.testing.assert_allclose(values, plain_run.outputs[name], atol=1e-6)


def weights(file: bytes) -> dict[str, np.ndarray]:
    """Every weight in its dense view; what DENSIFY makes is no weight."""
    tensors = read_graph(file).subgraphs[0].tensors
    return {tensor.name: to_dense(tensor) for tensor in tensors if tensor.is_weight}


def test_no_value_is_lost_and_every_buffer_is_aligned(kinds: Any) -> None:
    for way, plain in kinds[0].files.items():
        sparse = sparsify(plain, way)
        before, after = weights(plain), weights(sparse)
        assert before.keys() == after.keys()
        for name, values in before.items():
            np.testing.assert_array_equal(after[name], values)
        model = schema.Model.GetRootAs(sparse)
        starts = [model.Buffers(index)._tab for index in range(model.BuffersLength())]
        places = [tab.Vector(tab.Offset(4)) for tab in starts if tab.Offset(4)]
        assert places
        assert not any(place % 16 for place in places)


def operators(file: bytes) -> list[tuple[str, int]]:
    """Name and version of each operator, in the order they run."""
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    codes = [model.operatorCodes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    return [(names[code.builtinCode], code.version) for code in codes]


def dense_layers(inputs: int, units: int = 96) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units), keras.layers.Dense(8)])


@pytest.mark.parametrize(
    ("inputs", "zeros", "block", "first", "encoding"),
    [
        (128, 0.9, True, ("FULLY_CONNECTED", 8), "block"),  # 2.5% of the weights are a kept block
        (128, 0.98, False, ("FULLY_CONNECTED", 8), "rows"),  # 2% are kept, in blocks of their own
        (128, 0.9, False, ("FULLY_CONNECTED", 1), "rows"),  # too many for the sparse kernel
        (127, 0.9, True, ("FULLY_CONNECTED", 1), "rows"),  # blocks of 127 inputs would lose the last 3
    ],
)
def test_dense_layers_get_the_kernel_that_is_fast(
    inputs: int, zeros: float, block: bool, first: tuple[str, int], encoding: str, export: Any
) -> None:
    converted, arrays, reference = files_of(export, prune(dense_layers(inputs), zeros, block), [None])
    sparse = sparsify(converted.files[None], None)
    assert next(name for name in operators(sparse) if name[0] == "FULLY_CONNECTED") == first
    assert (("DENSIFY", 1) in operators(sparse)) == (first[1] == 1)
    tensors = {t.shape: t for t in read_graph(sparse).subgraphs[0].tensors if t.is_weight}
    assert (tensors[96, inputs].encoding.blockMap is not None) == (encoding == "block")
    verify(sparse, arrays, reference, None, run=export.run)


def test_share_up_to_which_the_sparse_kernel_is_used(export: Any) -> None:
    model = keras.Sequential([keras.Input((48,)), keras.layers.Dense(48, use_bias=False)])
    for kept, version in ((96, 8), (97, 1)):  # of 2,304 weights a 24th is 96
        kernel = np.zeros(48 * 48, "float32")
        kernel[np.random.default_rng(0).permutation(kernel.size)[:kept]] = 1.0
        model.layers[0].kernel.assign(kernel.reshape(48, 48))
        sparse = sparsify(files_of(export, model, [None])[0].files[None], None)
        assert ("FULLY_CONNECTED", version) in operators(sparse)


def test_dead_layers_are_stored_with_one_zero(export: Any) -> None:
    model = prune(dense_layers(128), 1.0)
    model.layers[-1].bias.assign(np.arange(8.0))
    converted, inputs, reference = files_of(export, model, [None, "float16"])
    for way, file in converted.files.items():
        sparse = sparsify(file, way)
        assert 4 * len(sparse) < len(file)
        verify(sparse, inputs, reference, way, run=export.run)


def test_what_stays_as_it_is(export: Any) -> None:
    model = dense_layers(128)
    converted, _, _ = files_of(export, model, [None, "dynamic", "int8"])
    assert sparsify(converted.files[None], None) is None  # no zeros
    prune(model, 0.95)
    converted, _, _ = files_of(export, model, ["dynamic", "int8"])
    assert sparsify(converted.files["dynamic"], "dynamic") is None
    assert sparsify(converted.files["int8"], "int8") is None
    shared = with_shared_buffer(files_of(export, model, [None])[0].files[None])
    assert sparsify(shared, None) is None


def with_shared_buffer(file: bytes) -> bytes:
    """The file with a second tensor in the buffer of each weight."""
    model = schema.ModelT.InitFromPackedBuf(file, 0)
    graph = model.subgraphs[0]
    graph.tensors += [tensor for tensor in graph.tensors if tuple(tensor.shape) in ((96, 128), (8, 96))]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def leads_out_twice() -> Any:
    """A 1x1 convolution in a chain that XNNPACK runs sparse on ARM, but for its second reader."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2)(keras.layers.ZeroPadding2D(1)(inputs))
    x = keras.layers.Conv2D(64, 1)(x)
    return keras.Model(inputs, [keras.layers.GlobalAveragePooling2D()(x), keras.layers.Flatten()(x)])


def test_what_would_be_wrong_on_arm_is_not_written(export: Any) -> None:
    file = files_of(export, prune(leads_out_twice(), 0.9), [None])[0].files[None]
    assert sparsify(file, None) is not None
    chosen = select_file(file, None, "auto", lambda _: GOOD)
    assert chosen.file == file
    assert chosen.fallback.startswith(
        "without its zeros XNNPACK may compute something else on ARM, as what it computes"
    )
    with pytest.raises(ExportError, match="sparse=True is not possible: without its zeros XNNPACK"):
        select_file(file, None, True, lambda _: GOOD)


GOOD = Agreement(0.0, 0.0, 0.0, None, {"an interpreter": "1.0"})


@pytest.fixture(scope="module")
def sparse_dense(export: Any) -> bytes:
    return files_of(export, prune(dense_layers(128), 0.95), [None])[0].files[None]


def times(plain: float, sparse: float) -> Any:
    def time(files: dict[str, bytes]) -> Times:
        assert len(files[choosing.SPARSE]) < len(files[choosing.PLAIN])
        medians = {choosing.PLAIN: plain, choosing.SPARSE: sparse}
        return Times("an interpreter", {name: Latency(medians[name], 0, 0, 1) for name in files})

    return time


@pytest.mark.parametrize(
    ("plain", "sparse", "kept"),
    [(1e-3, 0.5e-3, True), (1e-3, 1.09e-3, True), (1e-3, 1.11e-3, False), (1e-6, 3e-6, True), (1e-6, 3.2e-6, False)],
)
def test_auto_wants_it_smaller_and_not_slower(sparse_dense: bytes, plain: float, sparse: float, kept: bool) -> None:
    chosen = select_file(sparse_dense, None, "auto", lambda _: GOOD, times(plain, sparse))
    assert chosen.sparse == kept
    assert (chosen.file == sparse_dense) == (not kept)
    assert kept == (chosen.fallback is None)
    assert kept or f"without its zeros the file takes {1e6 * sparse:,.0f} us a run" in chosen.fallback
    assert select_file(sparse_dense, None, True, lambda _: GOOD, times(plain, sparse)).sparse


def test_a_sparse_file_that_fails_is_never_kept(sparse_dense: bytes) -> None:
    checked = []

    def check(file: bytes) -> Agreement:
        checked.append(file)
        if len(file) < len(sparse_dense):
            raise ExportError("It crashed.")
        return GOOD

    chosen = select_file(sparse_dense, None, "auto", check)
    assert (chosen.file, chosen.sparse) == (sparse_dense, False)
    assert chosen.fallback == "the file without its zeros failed: It crashed."
    assert checked[-1] == sparse_dense
    with pytest.raises(ExportError, match=r"sparse=True is not possible here\. It crashed"):
        select_file(sparse_dense, None, True, check)
    assert not select_file(sparse_dense, None, False, check).sparse
    with pytest.raises(ExportError, match="It crashed"):
        select_file(sparse_dense[:-1], None, False, check)


@pytest.mark.parametrize(
    ("zeros", "way", "reason"),
    [
        (0.0, None, "no weight gets smaller (0% of the weights are zero)"),
        (0.95, "dynamic", "operators that quantize as they run"),
        (0.95, "int8", "LiteRT doesn't load sparse Dense weights in int8"),
    ],
)
def test_why_there_is_no_sparse_file(zeros: float, way: str | None, reason: str, export: Any) -> None:
    file = files_of(export, prune(dense_layers(128), zeros), [way])[0].files[way]
    chosen = select_file(file, way, "auto", lambda _: GOOD)
    assert reason in chosen.fallback
    with pytest.raises(ExportError, match="sparse=True is not possible"):
        select_file(file, way, True, lambda _: GOOD)


def test_dense_int8_twin_is_dense(export: Any) -> None:
    file = files_of(export, prune(dense_layers(128), 0.95), ["int8"])[0].files["int8"]
    twin = densify(file)
    assert len(twin) == len(file)
    values = np.concatenate([array.ravel() for array in weights(twin).values()])
    assert (values != 0).all()
    assert -127 <= values.min() < -50
    assert 50 < values.max() <= 127


def test_only_dense_layers_are_given_to_the_sparse_kernel() -> None:
    """However sparse a convolution is."""
    model = keras.Sequential([keras.Input((8, 8, 16)), keras.layers.Conv2D(32, 3), keras.layers.Flatten()])
    kernel = sparse_array(3, 3, 16, 32, zeros=0.98)
    model.layers[0].set_weights([kernel, np.zeros(32, "float32")])
    plain = converted(model)
    sparse = sparsify(plain, None)
    assert sparse is not None
    names = [name for name, _ in operators(sparse)]
    assert "CONV_2D" in names
    assert [name for name in names if name != "DENSIFY"] == [name for name, _ in operators(plain)]


def test_rows_of_a_single_weight() -> None:
    encoded = sparse_writer.encode_smallest_rows(np.array([[3.0]], "float32"))
    np.testing.assert_array_equal(unpacked(encoded, (1, 1)), [[3.0]])


def test_dense_twin_of_a_layer_without_any_weight_is_dense() -> None:
    """No surviving weight tells the scale."""
    model = dense_model([np.zeros((16, 64), "float32"), np.ones((64, 2), "float32")])
    file = converted(model)
    sizes = {array.size for array in weights(densify(file)).values()}
    assert {16 * 64, 64 * 2} <= sizes
    assert all((array != 0).all() for array in weights(densify(file)).values())


def fixed_batch(K: Any) -> Any:
    return K.Sequential([K.Input((64,), batch_size=4), K.layers.Dense(64), K.layers.Reshape((8, 8))])


@pytest.mark.parametrize("package", list(KERAS))
def test_a_fixed_batch_is_kept(package: str, export: Any, tmp_path: Path) -> None:
    model = prune(fixed_batch(KERAS[package]), 0.9)
    inputs = np.random.default_rng(0).random((6, 64), dtype="float32")  # the last run is filled up
    report = export(model, tmp_path / "model.tflite", verify=inputs, measure=False)
    assert (report.batch, report.examples, report.sparse) == (4, 6, True)
    (name,) = (spec.name for spec in find_signature(model).inputs)
    runs = run_interpreters((tmp_path / "model.tflite").read_bytes(), {name: inputs}, run=export.run)
    expected = inputs.astype("float64") @ model.layers[0].kernel.numpy().astype("float64")
    for run in runs:
        assert run.batch == 4
        np.testing.assert_allclose(run.outputs["output_0"].reshape(6, 64), expected, atol=1e-5)


def test_names_of_inputs_and_outputs_are_kept(export: Any, tmp_path: Path) -> None:
    inputs = {"left": keras.Input((64,), name="left"), "right": keras.Input((64,), name="right")}
    shared = keras.layers.Dense(64)
    outputs = {"sum": shared(inputs["left"]) + shared(inputs["right"]), "left_again": inputs["left"] * 2.0}
    model = prune(keras.Model(inputs, outputs), 0.97)
    assert export(model, tmp_path / "model.tflite", measure=False).sparse
    arrays = {name: np.ones((2, 64), "float32") for name in inputs}
    run = run_interpreters((tmp_path / "model.tflite").read_bytes(), arrays, run=export.run)[0]
    assert run.outputs.keys() == outputs.keys()
    assert (run.outputs["left_again"] == 2).all()


def test_models_in_wrappers_of_tfmot_are_refused_by_name(export: Any, tmp_path: Path) -> None:
    from tfprune_init.tfmot.imports import sparsity

    model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="head")])
    with pytest.raises(ModelError, match=r"tfmot.strip\(model\).*'prune_low_magnitude_head', a PruneLowMagnitude"):
        export(sparsity.prune_low_magnitude(model), tmp_path / "model.tflite")
    assert not os.listdir(tmp_path)


def test_the_granularity_for_tflite_prunes_what_its_kernels_read() -> None:
    layouts = {
        "odd": Layout((6, 5), KernelAxes((0,), (1,))),
        "dense": Layout((8, 5), KernelAxes((0,), (1,))),
        "conv": Layout((3, 3, 4, 2), KernelAxes((2,), (3,))),
        "transposed": Layout((3, 4), KernelAxes((1,), (0,))),  # an EinsumDense kernel, outputs first
        "bias": Layout((8,), KernelAxes((), (0,))),
    }
    random = np.random.default_rng(0)
    scores = {path: random.random(layout.shape) for path, layout in layouts.items()}
    masks = choose_masks(scores, 0.3, layouts, granularity="tflite")
    assert masks.keys() == scores.keys()
    sums = {("dense", b, o): scores["dense"][4 * b : 4 * b + 4, o].sum() for b in range(2) for o in range(5)}
    sums |= {("transposed", 0, o): scores["transposed"][o].sum() for o in range(3)}
    kept = set(sorted(sums, key=sums.__getitem__)[-3:])  # of 13 blocks 30%, rounded down
    for path, block, output in sums:
        seen = masks["transposed"][output] if path == "transposed" else masks[path][4 * block : 4 * block + 4, output]
        assert seen.tolist() == [(path, block, output) in kept] * 4
    single = [path for path in layouts if path not in ("dense", "transposed")]
    everything = np.concatenate([scores[path].ravel() for path in single])
    chosen = np.concatenate([masks[path].ravel() for path in single])
    assert chosen.sum() == int(0.3 * everything.size)
    assert everything[chosen].min() > everything[~chosen].max()


def test_the_granularity_for_tflite_keeps_to_the_candidates() -> None:
    layouts = {"dense": Layout((8, 4), KernelAxes((0,), (1,)))}
    scores = {"dense": np.arange(32.0).reshape(8, 4)}
    alive = {"dense": np.zeros((8, 4), bool)}
    alive["dense"][:4, :2] = True
    masks = choose_masks(scores, 0.125, layouts, granularity="tflite", alive=alive)
    assert masks["dense"].sum() == 4
    assert masks["dense"][:4, 1].all()
