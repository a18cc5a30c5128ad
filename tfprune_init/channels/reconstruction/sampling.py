"""What layers get on data, sampled: windows at some places, and the columns that each channel contributes there."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend.batches import Batch
from tfprune_init.backend.protocols import Model
from tfprune_init.channels.reconstruction.windows import Window, to_channels_last
from tfprune_init.errors import ModelError, ScoreError
from tfprune_init.graph.layer_run import run_layer
from tfprune_init.graph.trace import trace_calls
from tfprune_init.graph.variables import ModelVariable, list_variables

# How far the sum of all columns may be from what the layer gives, as a share of its largest output.
_TOLERANCE = 1e-9
_TOO_LARGE = 1e100
# At most so many examples are compared.
_COMPARED = 2


@dataclass(frozen=True, eq=False)
class Sample:
    """Windows of a layer's inputs at places that were drawn, with some filters for each.

    Attributes:
        patches: Of shape [places, size of the window, rows], float64.
        filters: Filters that were drawn at each place, of shape [places, filters a place]; None for all of them.
    """

    patches: np.ndarray
    filters: np.ndarray | None

    def compute_columns(self, kernel: np.ndarray, unit_at_row: np.ndarray, units: int) -> np.ndarray:
        """Return what each unit contributes at each place to the filters drawn there.

        Args:
            kernel: Weights, of shape [size of the window, rows, filters].
            unit_at_row: The unit that each row takes, -1 for none.
            units: Number of units.

        Returns:
            Columns, float64, of shape [places * filters a place, units].
        """
        kernel = kernel.astype(np.float64)
        if self.filters is None:
            # For each row [places, window] @ [window, filters].
            by_row = (self.patches.transpose(2, 0, 1) @ kernel.transpose(1, 0, 2)).transpose(1, 2, 0)
        else:
            drawn = kernel[:, :, self.filters]  # [window, rows, places, filters a place]
            by_row = np.einsum("pwr,wrpf->pfr", self.patches, drawn)
        by_row = by_row.reshape(-1, len(unit_at_row))
        return _add_up_rows(by_row, unit_at_row, units)

    def compute_outputs(self, kernel: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return what some rows of a kernel give at each place to all filters, of shape [places, filters]."""
        return self.get_inputs(rows) @ kernel.astype(np.float64)[:, rows].reshape(-1, kernel.shape[-1])

    def get_inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the windows of some rows, of shape [places, size of the window * rows]."""
        return self.patches[:, :, rows].reshape(len(self.patches), -1)

    def thin_out(self, count: int, rng: np.random.Generator) -> tuple[Sample, np.ndarray]:
        """Return the sample at some of its places with all filters there, and which places these are."""
        places = np.sort(rng.permutation(len(self.patches))[:count])
        return Sample(self.patches[places], None), places


def _add_up_rows(by_row: np.ndarray, unit_at_row: np.ndarray, units: int) -> np.ndarray:
    """Add up the rows of each unit, one after the other."""
    columns = np.zeros((len(by_row), units))
    rounds = np.zeros(units, int)
    turn = np.full(len(unit_at_row), -1)
    for row, unit in enumerate(unit_at_row.tolist()):
        if unit >= 0:
            turn[row] = rounds[unit]
            rounds[unit] += 1
    for number in range(rounds.max(initial=0)):
        rows = np.flatnonzero(turn == number)
        columns[:, unit_at_row[rows]] += by_row[:, rows]
    return columns


class LayerSampler:
    """Draws places in the inputs of layers, the same ones each time.

    Args:
        model: A built model.
        batches: The batches that it runs on, in inference.
        places: How many places of an example are drawn, or all if there are no more. Where there are fewer, more
            filters are drawn at each, so that an example gives as many rows.
        seed: Seed of places and filters.
    """

    def __init__(self, model: Model, batches: Sequence[Batch], places: int, seed: int):
        self._model = model
        self._batches = batches
        self._places = places
        self._seed = seed

    @property
    def has_data(self) -> bool:
        """Whether there is anything to draw from."""
        return bool(self._batches)

    def draw(self, takers: Sequence[ModelVariable]) -> dict[str, Sample]:
        """Return a sample for each kernel, with the weights that the model has now.

        Raises:
            ModelError: If a layer does not compute with its kernel alone.
            ScoreError: If what a layer gets holds NaN, Inf or numbers too large to square.
            DataError: If the model cannot run on the data.
        """
        parts: dict[str, list[Sample]] = {target.path: [] for target in takers}
        for batch in self._batches:
            for target, x in self._run(batch.x, takers):
                if not (np.abs(x) < _TOO_LARGE).all():
                    raise ScoreError(
                        f"What enters the layer of {target.path} holds NaN, Inf or numbers too large to square, on "
                        f"batch {batch.number} of the data. Check the weights of the layers before it."
                    )
                if not parts[target.path]:
                    check_columns(target, x[:_COMPARED])
                parts[target.path].append(self._draw_places(target, x, batch.number))
        return {path: _join(path, samples) for path, samples in parts.items()}

    def _run(self, x: Any, takers: Sequence[ModelVariable]) -> Iterator[tuple[ModelVariable, np.ndarray]]:
        wanted = {id(target.layer): target for target in takers}

        def find_inputs(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
            return (args[0] if args else kwargs["inputs"],) if id(layer) in wanted else None

        for call in trace_calls(self._model, x, find_inputs)[0]:
            if id(call.layer) in wanted and call.outputs:
                yield wanted[id(call.layer)], to_channels_last(call.inputs[0], call.layer)

    def _draw_places(self, target: ModelVariable, x: np.ndarray, number: int) -> Sample:
        rng = np.random.default_rng([self._seed, zlib.crc32(target.path.encode()), number])
        window = Window.of(target.layer, x.ndim - 2)
        counts = window.count_places(x.shape[1:-1])
        total = int(np.prod(counts, dtype=np.int64))
        drawn = min(self._places, total)
        places = np.argsort(rng.random((len(x), total)), axis=1)[:, :drawn].ravel()
        examples = np.repeat(np.arange(len(x)), drawn)
        index = np.stack(np.unravel_index(places, counts), axis=1) if counts else np.zeros((len(places), 0), int)
        filters = target.shape[-1]
        each = min(filters, -(-self._places // drawn))
        chosen = np.argsort(rng.random((len(places), filters)), axis=1)[:, :each]
        return Sample(window.gather(x, examples, index), chosen)


def to_matrices(target: ModelVariable) -> np.ndarray:
    """Return a kernel as [size of the window, rows, filters]."""
    kernel = np.array(target.tensor)
    return kernel.reshape(-1, *kernel.shape[-2:])


def check_columns(target: ModelVariable, x: np.ndarray) -> None:
    """Refuse a layer that gives something else than the sum of its columns, and its bias.

    Args:
        target: Its kernel.
        x: Some inputs of it, channels last.

    Raises:
        ModelError: If it does, as with LoRA, or in a class of one's own that computes in another way.
    """
    layer = target.layer
    window = Window.of(layer, x.ndim - 2)
    counts = window.count_places(x.shape[1:-1])
    examples, *places = np.indices((len(x), *counts)).reshape(1 + len(counts), -1)
    index = np.stack(places, axis=1) if places else np.zeros((len(examples), 0), int)
    sample = Sample(window.gather(x, examples, index), None)
    found = sample.compute_outputs(to_matrices(target), np.arange(target.shape[-2]))
    first = getattr(layer, "data_format", None) == "channels_first" and x.ndim > 2
    values = {one.path: np.array(one.tensor) for one in list_variables(layer)}
    given = run_layer(layer, np.moveaxis(x, -1, 1) if first else x, values, linear=True)
    expected = to_channels_last(given, layer).reshape(found.shape)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        expected = expected - np.asarray(bias, np.float64)
    if np.abs(found - expected).max(initial=0) > _TOLERANCE * max(np.abs(expected).max(initial=0), 1e-30):
        raise ModelError(
            f"Layer {layer.name!r} gives something else than its kernel says, so what each channel contributes is not "
            f"known. Received: {type(layer).__name__}. Merge LoRA into the kernel (tpi.strip), or leave the layer "
            "before it out of keep=."
        )


def _join(path: str, samples: list[Sample]) -> Sample:
    if not samples:
        raise ModelError(f"The layer of {path} was not called on the data, so what it gets is not known.")
    filters = [one.filters for one in samples if one.filters is not None]
    return Sample(np.concatenate([one.patches for one in samples]), np.concatenate(filters))
