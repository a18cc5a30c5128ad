"""Figures of pruning at initialization: accuracies, layers, weights, neurons, overlap of masks, robust layers.

    from tfprune_init import plots

    plots.layer_densities({"snip": snip.masks, "force": force.masks}).savefig("layers.png", dpi=150)

Each function returns a `matplotlib.figure.Figure`, 6.5 inches wide, that belongs to no global state. Colors can be told
apart by color-blind readers, markers and lines on a gray print. Matplotlib is imported when the first figure is drawn.
"""

from tfprune_init.plots.accuracy import accuracy_curve
from tfprune_init.plots.connections import connections_per_neuron
from tfprune_init.plots.heat_map import kernel_heat_map
from tfprune_init.plots.layers import layer_densities
from tfprune_init.plots.mask_overlap import chance_iou, iou, overlap
from tfprune_init.plots.objective import objective_curve
from tfprune_init.plots.robustness import layer_robustness
from tfprune_init.plots.sensitivity_curves import sensitivity
from tfprune_init.plots.steps import steps_curve
from tfprune_init.plots.training_cost import cost_curve
from tfprune_init.plots.weight_sweep import shared_weight
from tfprune_init.plots.weights import weight_histograms

__all__ = [
    "accuracy_curve",
    "chance_iou",
    "connections_per_neuron",
    "cost_curve",
    "iou",
    "kernel_heat_map",
    "layer_densities",
    "layer_robustness",
    "objective_curve",
    "overlap",
    "plots",
    "sensitivity",
    "shared_weight",
    "steps_curve",
    "weight_histograms",
]
