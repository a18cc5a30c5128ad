"""The methods of the field, one row each."""

from __future__ import annotations

from tfprune_init.methods.method import Method, register_method

_FORCE = "de Jorge et al., Progressive Skeletonization, ICLR 2021"
_SNIP = "Lee et al., SNIP, ICLR 2019"
_SNIP_IT = "Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020"

_CATALOGUE = [
    Method(
        "force",
        "sensitivity",
        schedule="exponential",
        steps=60,
        regrow=True,
        iterative=True,
        summary="many small steps; connections judged at the pruned network; pruned ones may return",
        reference=_FORCE,
        follows="60 steps, one batch each, as the code's README runs it; the code's default is 10.",
    ),
    Method(
        "iter_snip",
        "sensitivity",
        schedule="exponential",
        steps=60,
        iterative=True,
        summary="many small steps of SNIP; what is pruned stays pruned",
        reference=_FORCE,
    ),
    Method(
        "snip",
        "sensitivity",
        summary="one step: how much each connection moves the loss of the dense network",
        reference=_SNIP,
        follows="BatchNorm on batch statistics, as FORCE's code; SNIP's own uses the untrained moving averages "
        "(training=False), prunes biases (prune_bias=True), and trains another initialization than it scored.",
    ),
    Method(
        "grasp",
        "gradient_flow",
        summary="keeps what the gradient's norm needs most; batches= makes it GraSP-MB",
        reference="Wang et al., GraSP, ICLR 2020",
    ),
    Method(
        "grasp_it",
        "gradient_power",
        schedule="exponential",
        steps=60,
        iterative=True,
        summary="many small steps; keeps the largest gradients of the pruned network",
        reference=_FORCE,
    ),
    Method(
        "synflow",
        "synaptic_flow",
        schedule="exponential",
        steps=100,
        iterative=True,
        avoid_layer_collapse=True,
        summary="no data: 100 steps, keeps what carries most of the flow from inputs to outputs",
        reference="Tanaka et al., SynFlow, NeurIPS 2020",
        follows="100 steps as in the paper; the code's command line does one by default. Its "
        "masks are those of avoid_layer_collapse=False.",
    ),
    Method(
        "hessian",
        "curvature",
        summary="keeps where the loss curves most: optimal brain damage",
        reference="LeCun et al., Optimal Brain Damage, NeurIPS 1990",
    ),
    Method(
        "snip2",
        "second_order",
        summary="SNIP to second order",
        reference="Lee et al., SNIP, extended abstract",
    ),
    Method(
        "exact",
        "loss_change",
        defaults={"training": False},
        summary="tries every weight: the loss without it, in float64; for small networks",
        reference=_SNIP,
    ),
    Method("grad_norm", "gradient_norm", summary="keeps the largest gradients", reference="baseline"),
    Method(
        "snip_it",
        "sensitivity",
        schedule="halving",
        steps=7,
        iterative=True,
        defaults={"batches": 5, "training": False},
        summary="SNIP in seven steps that each halve what is left to prune",
        reference=_SNIP_IT,
        follows="The code's schedule, its 5 batches an event and inference mode. It divides by the loss, which changes "
        "no order, keeps one weight too few, and leaves first and last layer alone unless told (exclude= here).",
    ),
    Method(
        "snap_it",
        "unit_sensitivity",
        schedule="halving",
        steps=7,
        granularity="units",
        iterative=True,
        defaults={"batches": 5, "training": False},
        summary="SNIP-it for whole filters and units, removed with all that belongs to them",
        reference=_SNIP_IT,
    ),
    Method(
        "skeletonization",
        "unit_relevance",
        granularity="units",
        summary="keeps the units without which the loss would rise most",
        reference="Mozer & Smolensky, Skeletonization, NeurIPS 1988",
    ),
    Method(
        "magnitude",
        "magnitude",
        summary="the largest initial weights stay",
        reference="Han et al., NeurIPS 2015; Frankle et al., ICLR 2021",
    ),
    Method("random", "chance", summary="every weight has the same chance to stay", reference="baseline"),
    Method(
        "erk",
        "chance",
        allocation="erk",
        summary="chance within layers whose densities follow Erdos-Renyi-Kernel",
        reference="Evci et al., RigL, ICML 2020",
    ),
]

for _method in _CATALOGUE:
    register_method(_method)
