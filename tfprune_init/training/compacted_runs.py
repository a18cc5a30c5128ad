"""Runs whose network becomes smaller: channels cut out of it, and cut again where a run goes on after a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune_init.backend.model_state import find_layer_variables
from tfprune_init.compaction import Compaction, compact
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import attach, get_attached_masks
from tfprune_init.masking.wrapper import strip
from tfprune_init.masks import Masks
from tfprune_init.training.run_state import CompactedModel

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


def cut_channels(run: ProcedureRun) -> None:
    """Let a run go on with the smaller model that its masks leave, and note how it came about.

    Raises:
        ModelError: If the smaller model cannot be compiled as the given one is.
        PruningError: As `tpi.compact`.
    """
    state, masks = run.state, run.state.masks
    assert masks is not None  # the outline refused that
    paths, values = state.paths, run.read_model()
    done = _cut(run, masks)
    assert done.masks is not None
    state.compactions.append(CompactedModel(paths, masks, values, done.to_dict()))
    state.share *= done.masks.size / masks.size
    state.snapshots.clear()
    state.masks = None
    state.follow_names(run.model)
    if done.masks.kept < done.masks.size:
        state.masks = done.masks
        attach(run.model, done.masks)


def cut_again(run: ProcedureRun) -> None:
    """Make the model of a run as small as it was when its state was saved, from the model that it began with.

    Raises:
        OptionError: If the saved state does not fit the model.
    """
    for one in run.state.compactions:
        paths = [target.path for target in list_variables(run.model)]
        if len(paths) != len(one.paths):
            raise OptionError(
                f"The saved run is damaged: its network had {len(one.paths)} variables before it was compacted, this "
                f"one has {len(paths)}. Remove its folder to begin anew."
            )
        names = dict(zip(one.paths, paths, strict=True))
        for variable, value in zip(find_layer_variables(run.model), one.values, strict=True):
            variable.assign(value)
        _cut(run, Masks({names[path]: mask for path, mask in one.masks.items()}))


def _cut(run: ProcedureRun, masks: Masks) -> Compaction:
    carries_masks = get_attached_masks(run.model) is not None
    done = compact(strip(run.model) if carries_masks else run.model, masks)
    if not done.compiled:
        raise ModelError(
            f"The smaller model of {run.model.name!r} cannot be compiled as it is: its loss, metrics or optimizer "
            "cannot be made from their configs. Register them with Keras (register_keras_serializable)."
        )
    run.replace_model(done.model)
    return done
