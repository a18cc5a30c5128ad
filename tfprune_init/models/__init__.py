"""The networks of the pruning-at-initialization papers, as plain Keras models that end in logits."""

from __future__ import annotations

from tfprune_init.models.lenet import lenet_5, lenet_300_100
from tfprune_init.models.resnet import resnet20, resnet50
from tfprune_init.models.vgg import vgg19

__all__ = [
    "lenet_5",
    "lenet_300_100",
    "resnet20",
    "resnet50",
    "vgg19",
]
