"""Prune neural networks before they are trained, in TensorFlow and Keras.

    import tfprune_init as tpi

    report = tpi.prune_at_init(model, train, sparsity=0.95, method="force")
    model.fit(train, epochs=5)
    edge = tpi.export_tflite(tpi.strip(model), "model.tflite")

See the README for the whole story.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Keras can load files with masks, k-winners and decisions once these classes are registered.
from tfprune_init import layers
from tfprune_init.masking.wrapper import PrunableLayer, strip, wrap
from tfprune_init.version import __version__

if TYPE_CHECKING:
    from tfprune_init import datasets, distribute, errors, models, plots, reports, tfmot, training
    from tfprune_init.adaptive import (
        AdaptiveCost,
        AdaptiveTraining,
        BudgetSchedule,
        insert_saliency,
        measure_adaptive_cost,
        train_adaptively,
    )
    from tfprune_init.api import find_masks, prune_at_init, score
    from tfprune_init.channels import FoundChannels, find_channels, register_importance
    from tfprune_init.channels.published_widths import find_published_widths
    from tfprune_init.channels.reconstruction import ChannelReconstruction, reconstruct_channels
    from tfprune_init.compaction import Compaction, compact
    from tfprune_init.errors import PruningError
    from tfprune_init.experiments import (
        LayerRobustness,
        NoiseTest,
        Results,
        compare,
        measure_layer_robustness,
        run_noise_test,
    )
    from tfprune_init.export import EdgeReport, export_tflite, exporter
    from tfprune_init.gates import (
        Discretization,
        GateOverview,
        Slimming,
        discretize,
        find_slimming_masks,
        insert_gates,
        list_gate_places,
        penalize_scales,
    )
    from tfprune_init.graph.string_inputs import cut_string_inputs
    from tfprune_init.graph.weight_copies import copy_variables, copy_weights
    from tfprune_init.masking.attachment import attach
    from tfprune_init.masking.callbacks import PruneDuringTraining
    from tfprune_init.masking.dynamic_pruning import DynamicPruning
    from tfprune_init.masking.freezing import freeze, unfreeze
    from tfprune_init.masking.gradient_masking import mask_gradients
    from tfprune_init.masking.reinitialization import reinitialize
    from tfprune_init.masking.tensorboard import TensorBoardSparsity
    from tfprune_init.masks import Masks
    from tfprune_init.methods import Method, list_methods, register_method
    from tfprune_init.report import PruningReport
    from tfprune_init.scoring.criteria import register_criterion
    from tfprune_init.scoring.training_criteria import register_training_criterion
    from tfprune_init.selection import Budget, register_allocation, register_granularity
    from tfprune_init.training import KeepCheckpoints, run
    from tfprune_init.training.distillation import distill
    from tfprune_init.training.pruning_from_scratch import ScratchNetwork, prune_from_scratch
    from tfprune_init.training.sensitivity import SensitivityScan, scan_sensitivity
    from tfprune_init.training.shared_values import SharedWeights
    from tfprune_init.training.trained_masks import find_masks_from_training
    from tfprune_init.training.weight_sharing import shared_weight
    from tfprune_init.width_search import ResNetSpace, ResNetWidths, SearchedWidths, search_widths

__all__ = [
    "AdaptiveCost",
    "AdaptiveTraining",
    "Budget",
    "BudgetSchedule",
    "ChannelReconstruction",
    "Compaction",
    "Discretization",
    "DynamicPruning",
    "EdgeReport",
    "FoundChannels",
    "GateOverview",
    "KeepCheckpoints",
    "LayerRobustness",
    "Masks",
    "Method",
    "NoiseTest",
    "PrunableLayer",
    "PruneDuringTraining",
    "PruningError",
    "PruningReport",
    "ResNetSpace",
    "ResNetWidths",
    "Results",
    "ScratchNetwork",
    "SearchedWidths",
    "SensitivityScan",
    "SharedWeights",
    "Slimming",
    "TensorBoardSparsity",
    "__version__",
    "attach",
    "compact",
    "compare",
    "copy_variables",
    "copy_weights",
    "cut_string_inputs",
    "datasets",
    "discretize",
    "distill",
    "distribute",
    "errors",
    "export_tflite",
    "exporter",
    "find_channels",
    "find_masks",
    "find_masks_from_training",
    "find_published_widths",
    "find_slimming_masks",
    "freeze",
    "insert_gates",
    "insert_saliency",
    "layers",
    "list_gate_places",
    "list_methods",
    "mask_gradients",
    "measure_adaptive_cost",
    "measure_layer_robustness",
    "models",
    "penalize_scales",
    "plots",
    "prune_at_init",
    "prune_from_scratch",
    "reconstruct_channels",
    "register_allocation",
    "register_criterion",
    "register_granularity",
    "register_importance",
    "register_method",
    "register_training_criterion",
    "reinitialize",
    "reports",
    "run",
    "run_noise_test",
    "scan_sensitivity",
    "score",
    "search_widths",
    "shared_weight",
    "strip",
    "tfmot",
    "train_adaptively",
    "training",
    "unfreeze",
    "wrap",
]

# Where each public name lives. A module is imported when one of its names is first used.
_HOMES = {
    "adaptive": (
        "AdaptiveCost",
        "AdaptiveTraining",
        "BudgetSchedule",
        "insert_saliency",
        "measure_adaptive_cost",
        "train_adaptively",
    ),
    "api": ("find_masks", "prune_at_init", "score"),
    "channels": ("FoundChannels", "find_channels", "register_importance"),
    "channels.published_widths": ("find_published_widths",),
    "channels.reconstruction": ("ChannelReconstruction", "reconstruct_channels"),
    "compaction": ("Compaction", "compact"),
    "errors": ("PruningError",),
    "experiments": ("LayerRobustness", "NoiseTest", "Results", "compare", "measure_layer_robustness", "run_noise_test"),
    "export": ("EdgeReport", "export_tflite", "exporter"),
    "gates": (
        "Discretization",
        "GateOverview",
        "Slimming",
        "discretize",
        "find_slimming_masks",
        "insert_gates",
        "list_gate_places",
        "penalize_scales",
    ),
    "graph.string_inputs": ("cut_string_inputs",),
    "graph.weight_copies": ("copy_variables", "copy_weights"),
    "masking.attachment": ("attach",),
    "masking.callbacks": ("PruneDuringTraining",),
    "masking.dynamic_pruning": ("DynamicPruning",),
    "masking.freezing": ("freeze", "unfreeze"),
    "masking.gradient_masking": ("mask_gradients",),
    "masking.reinitialization": ("reinitialize",),
    "masking.tensorboard": ("TensorBoardSparsity",),
    "masks": ("Masks",),
    "methods": ("Method", "list_methods", "register_method"),
    "report": ("PruningReport",),
    "scoring.criteria": ("register_criterion",),
    "training": ("KeepCheckpoints", "run"),
    "training.distillation": ("distill",),
    "scoring.training_criteria": ("register_training_criterion",),
    "selection": ("Budget", "register_allocation", "register_granularity"),
    "training.pruning_from_scratch": ("ScratchNetwork", "prune_from_scratch"),
    "training.shared_values": ("SharedWeights",),
    "training.sensitivity": ("SensitivityScan", "scan_sensitivity"),
    "training.trained_masks": ("find_masks_from_training",),
    "training.weight_sharing": ("shared_weight",),
    "width_search": ("ResNetSpace", "ResNetWidths", "SearchedWidths", "search_widths"),
}
_MODULES = ("datasets", "distribute", "errors", "models", "plots", "reports", "tfmot", "training")


def __getattr__(name: str) -> Any:
    """Import the module that holds a public name on first use."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
