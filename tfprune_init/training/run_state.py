"""The state of a run between its events, and the folder that it is saved in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError
from tfprune_init.files import atomic_folder, read_npz, write_json
from tfprune_init.graph.variables import list_variables
from tfprune_init.masks import Masks
from tfprune_init.records import parse_json
from tfprune_init.training.cost import TrainingCost

_ARRAYS, _MASKS, _STATE = "arrays.npz", "masks.npz", "state.json"
_COMPACTED = "compacted_{}.npz"

_FORMAT = "tfprune_init run state"

Snapshots = dict[str, tuple[int, list[np.ndarray]]]


@dataclass(frozen=True, eq=False)
class CompactedModel:
    """A model out of which channels were cut: all that is needed to cut them again.

    Attributes:
        paths: Paths of its variables, in their order.
        masks: The masks by which it was compacted.
        values: Values of its variables.
        account: What `Compaction.to_dict` gave.
    """

    paths: list[str]
    masks: Masks
    values: list[np.ndarray]
    account: dict[str, Any]


class _Compaction(TypedDict):
    paths: list[str]
    count: int
    account: dict[str, Any]


class _Record(TypedDict):
    format: str
    settings: str
    done: int
    step: int
    cost: dict[str, Any]
    history: list[dict[str, Any]]
    epochs: list[dict[str, float]]
    search: dict[str, Any] | None
    seconds: dict[str, float]
    snapshots: dict[str, int]
    counts: list[int]
    paths: list[str]
    share: float
    compactions: list[_Compaction]


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        done: Number of events that are done.
        step: Step of training, that schedules and the order of the data go by.
        masks: The masks that the model computes with, attached between events; None before the first pruning.
        snapshots: Step and values of the model's variables, by name.
        cost: What the run has cost so far.
        history: What was measured: dicts with the event, the step, the density and the numbers.
        epochs: What `fit` logged on the training data, or the loss while masks were learned, epoch by epoch.
        search: What `PruningReport.to_dict` gave of the last search for masks.
        seconds: Wall time of "training" and of "pruning".
        paths: Paths of the model's variables in their order, which the masks go by.
        share: Share of the weights that masks are about that was not cut out of the model.
        compactions: The models out of which channels were cut to get to the present one.
    """

    done: int = 0
    step: int = 0
    masks: Masks | None = None
    snapshots: Snapshots = field(default_factory=dict)
    cost: TrainingCost = field(default_factory=TrainingCost)
    history: list[dict[str, Any]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    search: dict[str, Any] | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"training": 0.0, "pruning": 0.0})
    paths: list[str] = field(default_factory=list)
    share: float = 1.0
    compactions: list[CompactedModel] = field(default_factory=list)

    @property
    def density(self) -> float:
        """Share of the weights that masks are about that stays."""
        return self.share * (1.0 if self.masks is None else self.masks.density)

    def note(self, name: str, numbers: Mapping[str, float], density: float) -> None:
        """Note in the history what was measured of a network with that share of its weights."""
        at = {"event": name, "place": self.done, "step": self.step, "density": density}
        self.history.append({**at, **numbers})

    def follow_names(self, model: Model) -> None:
        """Go by the paths of a model that was built anew, as Keras may have numbered its layers otherwise.

        Raises:
            OptionError: If the paths of before are not those of as many variables, or the masks have others.
        """
        paths = [target.path for target in list_variables(model)]
        if self.masks is not None:
            names = dict(zip(self.paths, paths, strict=False))
            if len(self.paths) != len(paths) or not names.keys() >= self.masks.keys():
                raise OptionError(
                    f"The saved run is damaged: its masks are of {', '.join(self.masks)}, its variables are "
                    f"{', '.join(self.paths)}. Remove its folder to begin anew."
                )
            self.masks = Masks({names[path]: mask for path, mask in self.masks.items()}, self.masks.collapse)
        self.paths = paths


def save_state(folder: Path, state: RunState, model: Sequence[np.ndarray], settings: str) -> None:
    """Write the state and the values of the model's variables; the folder holds all of a state, or the one before.

    Args:
        folder: Where to; its parent must exist.
        state: The state.
        model: Values of the model's variables.
        settings: What decides the course of the run, to tell it from others.
    """
    arrays = {f"model_{i}": value for i, value in enumerate(model)}
    for place, (_, values) in enumerate(state.snapshots.values()):
        arrays |= {f"snapshot_{place}_{i}": value for i, value in enumerate(values)}
    for place, one in enumerate(state.compactions):
        arrays |= {f"compacted_{place}_{i}": value for i, value in enumerate(one.values)}
    record = {
        "format": _FORMAT,
        "settings": settings,
        "done": state.done,
        "step": state.step,
        "cost": asdict(state.cost),
        "history": state.history,
        "epochs": state.epochs,
        "search": state.search,
        "seconds": state.seconds,
        "snapshots": {name: step for name, (step, _) in state.snapshots.items()},
        "counts": [len(values) for _, values in state.snapshots.values()],
        "paths": state.paths,
        "share": state.share,
        "compactions": [
            {"paths": one.paths, "count": len(one.values), "account": one.account} for one in state.compactions
        ],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, replace=True) as part:
        np.savez(part / _ARRAYS, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes them for its own options
        if state.masks is not None:
            state.masks.save(part / _MASKS)
        for place, one in enumerate(state.compactions):
            one.masks.save(part / _COMPACTED.format(place))
        write_json(part / _STATE, record)


def load_state(folder: Path, settings: str) -> tuple[RunState, list[np.ndarray]] | None:
    """Read a saved state and the values of the model's variables; None if there is none.

    Raises:
        OptionError: If it is damaged, or of a run with other settings.
    """
    if not (folder / _STATE).is_file():
        return None
    try:
        record = parse_json((folder / _STATE).read_bytes(), _Record, f"{folder / _STATE} is damaged")
        arrays = read_npz(folder / _ARRAYS)
        masks = Masks.load(folder / _MASKS) if (folder / _MASKS).is_file() else None
        model = [arrays[f"model_{i}"] for i in range(sum(name.startswith("model_") for name in arrays))]
        snapshots: Snapshots = {}
        for place, (name, step) in enumerate(record["snapshots"].items()):
            values = [arrays[f"snapshot_{place}_{i}"] for i in range(record["counts"][place])]
            snapshots[name] = (step, values)
        compactions = [
            CompactedModel(
                one["paths"],
                Masks.load(folder / _COMPACTED.format(place)),
                [arrays[f"compacted_{place}_{i}"] for i in range(one["count"])],
                one["account"],
            )
            for place, one in enumerate(record["compactions"])
        ]
        cost = TrainingCost(**record["cost"])
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise OptionError(f"The run in {folder} is damaged: {error}. Remove the folder to begin anew.") from error
    if record["settings"] != settings:
        raise OptionError(
            f"The folder {folder} holds another run: other events, data, model, seed or sparsity. Use another folder. "
            f"Received: {settings[:12]}; there: {record['settings'][:12]}."
        )
    names = ("done", "step", "history", "epochs", "search", "seconds", "paths", "share")
    plain = {name: record[name] for name in names}
    return RunState(masks=masks, snapshots=snapshots, cost=cost, compactions=compactions, **plain), model
