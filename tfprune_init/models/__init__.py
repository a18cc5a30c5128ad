"""The networks of the papers, as plain Keras models that end in logits."""

from __future__ import annotations

from tfprune_init.models.conv import conv_2, conv_4, conv_6
from tfprune_init.models.k_winners_cnn import dense_cnn_1, dense_cnn_2, sparse_cnn_1, sparse_cnn_2
from tfprune_init.models.lenet import lenet_5, lenet_300_100
from tfprune_init.models.resnet import resnet20, resnet50, resnet56, resnet110
from tfprune_init.models.vgg import vgg16, vgg19

__all__ = [
    "conv_2",
    "conv_4",
    "conv_6",
    "dense_cnn_1",
    "dense_cnn_2",
    "lenet_5",
    "lenet_300_100",
    "resnet20",
    "resnet50",
    "resnet56",
    "resnet110",
    "sparse_cnn_1",
    "sparse_cnn_2",
    "vgg16",
    "vgg19",
]
