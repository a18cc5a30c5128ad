"""`reconstruct_channels`: layers lose channels one after the other, each time with the next one refitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.channels.reconstruction.channel_selection import keep_largest_filters
from tfprune_init.channels.reconstruction.reconstruction_methods import REFITS, NextLayer
from tfprune_init.channels.reconstruction.reconstruction_plan import ReconstructionPlan, plan_reconstruction
from tfprune_init.channels.reconstruction.result import ChannelReconstruction, ReconstructedLayer, compute_digest
from tfprune_init.channels.reconstruction.sampling import to_matrices
from tfprune_init.channels.reconstruction.unit_pairs import UnitPair
from tfprune_init.errors import ScoreError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.masks import Masks
from tfprune_init.progress import is_progress_shown, track


def reconstruct_channels(
    model: Model,
    data: Any = None,
    *,
    method: str = "thinet",
    keep: float | Mapping[str, float | int] = 0.5,
    refit: str | None = None,
    batches: int | None = None,
    places: int | None = None,
    seed: int | None = None,
    verbose: str | int | bool = "auto",
) -> ChannelReconstruction:
    """Choose whole channels by what the next layer gets of them, and rewrite its weights so that it hardly notices.

    Layers are pruned one after the other from the inputs on. The next layer's output without bias is a sum of columns,
    one for each channel; what is chosen is judged by how near the columns that stay come to the sum of all. Layers
    whose units are outputs, or go only together with those of other layers (as on both sides of a sum), keep all; so do
    those that several layers take, or a layer that is neither Dense nor a convolution. `skipped` names each.

    Args:
        model: A built model, Keras 3 or tf_keras, mostly a trained one. It is not changed.
        data: What the network runs on, in inference: a batched dataset or arrays, as in `find_masks`; labels are not
            looked at. "l1" without a refit needs none; with data it reports how far the next layer is off.
        method: "thinet" removes channels whose columns add up to least, one by one; "thinet_forward" adds the channel
            that explains most of what is left, one by one; "lasso" keeps those to which a penalty on absolute factors
            leaves one; "l1" keeps the filters with the largest sums of absolute weights.
        keep: Share of the channels of each layer that stays, in (0, 1]: floor(channels * share), but at least one. Or a
            dict from layer name, variable path or glob pattern to such a share or to a number of channels, an integer,
            as `find_published_widths` gives; layers that it does not name keep all.
        refit: What becomes of the next layer's weights: "none", "scale" (one factor a channel, by least squares) or
            "least_squares" (all weights on the channels that stay, and the bias if there is one). By default what the
            method's paper does: "none" for "l1", "least_squares" for "lasso", "scale" for both of ThiNet.
        batches: How many batches are looked at, or all if the data has fewer; 8 by default.
        places: How many rows each example gives: as many places in the output of the next layer, and a filter for each;
            where there are fewer places, more filters. 10 by default.
        seed: Seed of places and filters; 0 by default.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.

    Returns:
        ChannelReconstruction: masks, new weights, and an account of each layer. `apply(model)` puts them into the
        model; `tpi.compact(model)` then makes the smaller one.

    Raises:
        OptionError: If an option is unknown, out of range or without effect, or no channel would go.
        ModelError: If the model is not built, or a layer does not compute with its kernel alone.
        DataError: If data is missing or too little for the unknowns of least squares, or the model cannot run on it.
        ScoreError: If what a layer gets holds NaN, Inf or numbers too large to square, or all that it gives is 0.
        EnforcementError: If the model carries masks, or weights are frozen.
        MissingDependencyError: If "lasso" lacks scikit-learn.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> L = keras.layers
        >>> layers = [L.Conv2D(8, 3, activation="relu", name="conv1"), L.Conv2D(8, 3, name="conv2"), L.Flatten()]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dense(3, name="head")])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 1))
        >>> found = tpi.reconstruct_channels(model, x, method="thinet", keep={"conv1": 4})
        >>> [(layer.path, layer.channels, len(layer.kept)) for layer in found.layers]
        [('conv1/kernel', 8, 4)]
        >>> found.apply(model)
        >>> tpi.compact(model).channels["conv1"].size
        4

    References:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; Luo et al., ThiNet, ICCV 2017 and TPAMI 2019;
        He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017.
    """
    plan = plan_reconstruction(model, data, method, keep, refit, batches, places, seed)
    work = _LayerByLayer(model, plan)
    shown = is_progress_shown(verbose)
    with restore_state(model):
        if plan.method.from_original:
            work.remember_outputs(plan.pairs)
        layers = [
            work.prune(pair, plan.counts[pair.maker.path]) for pair in track(plan.pairs, "reconstruct", shown=shown)
        ]
        masks, weights = work.read_result()
    return ChannelReconstruction(method, plan.refit, masks, weights, tuple(layers), plan.skipped, work.digests)


class _LayerByLayer:
    """The network as it becomes smaller."""

    def __init__(self, model: Model, plan: ReconstructionPlan):
        self._graph = graph = plan.graph
        self._sampler = plan.sampler
        self._method = plan.method
        self._refit = REFITS[plan.refit]
        self._seed = plan.seed
        self._variables = {target.path: target for target in list_variables(model)}
        self._kernels = {path: np.array(self._variables[path].effective) for path in graph.units}
        self._removed = np.zeros(graph.removable.size, bool)
        self._outputs: dict[str, np.ndarray] = {}
        self._added: dict[str, np.ndarray | float] = {}
        self.digests: dict[str, str] = {}

    def remember_outputs(self, pairs: Sequence[UnitPair]) -> None:
        """Remember what the next layers give in the network before any pruning."""
        takers = [pair.taker for pair in pairs if pair.taker is not None]
        for path, sample in self._sampler.draw(takers).items():
            kernel = to_matrices(self._variables[path])
            self._outputs[path] = sample.compute_outputs(kernel, np.arange(kernel.shape[1]))

    def prune(self, pair: UnitPair, keep: int) -> ReconstructedLayer:
        """Remove units of a kernel, and rewrite the one that takes them."""
        path, units = pair.maker.path, len(pair.groups)
        layer = self._look(pair)
        if self._method.choose is None:
            kept = keep_largest_filters(self._kernels[path], pair.axis, keep)
        else:
            assert layer is not None
            kept = self._method.choose(layer, keep)
        self._removed[np.delete(pair.groups, kept)] = True
        if layer is None:
            self._set_zeros()
            return ReconstructedLayer(path, None, units, tuple(kept.tolist()))
        nothing = np.zeros(layer.kernel.shape[-1])
        before = layer.measure_error(layer.kernel, nothing, kept)
        kernel, offsets = self._refit(layer, kept)
        if self._refit is not REFITS["none"]:
            kernel = self._rewrite(self._variables[layer.path], kernel).reshape(kernel.shape)
            self._add_to_bias(layer.path, offsets)
        self._set_zeros()
        after = layer.measure_error(kernel, offsets, kept)
        return ReconstructedLayer(path, layer.path, units, tuple(kept.tolist()), before, after)

    def read_result(self) -> tuple[Masks, dict[str, np.ndarray]]:
        """Return what is kept, and the variables that were rewritten as they are now."""
        weights = {path: np.array(self._variables[path].tensor) for path in self.digests}
        return Masks(self._graph.masks(self._removed)), weights

    def _look(self, pair: UnitPair) -> NextLayer | None:
        """Sample what the next layer gets in the network as it is; None if there is no data, or no such layer."""
        if pair.taker is None or not self._sampler.has_data:
            return None
        path = pair.taker.path
        sample = self._sampler.draw([pair.taker])[path]
        kernel = to_matrices(pair.taker)
        own = np.flatnonzero(pair.unit_at_row >= 0)
        if path in self._outputs:
            others = np.flatnonzero(pair.unit_at_row < 0)
            # What others that are put beside these units give, and what was added to the bias on their account.
            target = self._outputs[path] - sample.compute_outputs(kernel, others) - self._added.get(path, 0.0)
        else:
            target = sample.compute_outputs(kernel, own)
        if not target.any():
            raise ScoreError(
                f"The units of {pair.maker.path} contribute nothing to {path}, so nothing tells them apart. Check the "
                "weights and the data, or leave the layer out of keep=."
            )
        has_bias = self._find_bias(path) is not None
        return NextLayer(path, kernel, pair.unit_at_row, len(pair.groups), sample, target, has_bias, self._seed)

    def _add_to_bias(self, path: str, offsets: np.ndarray) -> None:
        bias = self._find_bias(path)
        if bias is not None and offsets.any():
            self._rewrite(bias, np.array(bias.tensor, np.float64) + offsets)
            self._added[path] = self._added.get(path, 0.0) + offsets

    def _find_bias(self, path: str) -> ModelVariable | None:
        layer = self._variables[path].layer
        return next((one for one in self._variables.values() if one.layer is layer and one.name == "bias"), None)

    def _rewrite(self, target: ModelVariable, values: np.ndarray) -> np.ndarray:
        """Write values into a variable; return those that it then has."""
        self.digests.setdefault(target.path, compute_digest(target.tensor))
        target.tensor.assign(tf.cast(values.reshape(target.shape), target.tensor.dtype))
        return np.array(target.tensor)

    def _set_zeros(self) -> None:
        for path, mask in self._graph.masks(self._removed).items():
            if not mask.all():
                tensor = self._variables[path].tensor
                tensor.assign(tf.where(mask, tensor, tf.zeros((), tensor.dtype)))
