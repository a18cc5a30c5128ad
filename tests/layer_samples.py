"""A layer of every class of both Kerases, with an input for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
ROW = RNG.normal(50, 9, (4, 6)).astype("float32")
STEPS = RNG.normal(size=(4, 5, 6)).astype("float32")
IMAGE = RNG.uniform(0, 255, (2, 8, 8, 3)).astype("float32")
VOLUME = RNG.normal(size=(2, 4, 4, 4, 2)).astype("float32")
FRAMES = RNG.normal(size=(2, 3, 6, 6, 2)).astype("float32")
LINES = RNG.normal(size=(2, 3, 6, 2)).astype("float32")
WORDS = np.array([["a b"], ["c d"], ["z"], ["b a"]], object)
TOKENS = np.array([["a", "b"], ["c", "z"]], object)
IDS = np.array([[7, 11], [13, 2]])
SOUND = RNG.normal(size=(2, 4000)).astype("float32")


def adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


def make(name: str, *given: Any) -> Callable[[Any], Any]:
    """What makes a layer of a class, given keras.layers or tf_keras.layers."""
    return lambda L: getattr(L, name)(*given)


# By class name: what makes a layer of it, given keras.layers or tf_keras.layers, and an input for it.
Sample = tuple[Callable[[Any], Any], Any]
SAMPLES: dict[str, Sample | list[Sample]] = {
    "Activation": (lambda L: L.Activation("tanh"), ROW),
    "ActivityRegularization": (lambda L: L.ActivityRegularization(l2=0.1), ROW),
    "AdditiveAttention": (lambda L: L.AdditiveAttention(), [STEPS, STEPS]),
    "Attention": (lambda L: L.Attention(use_scale=True), [STEPS, STEPS]),
    "Bidirectional": (lambda L: L.Bidirectional(L.GRU(3)), STEPS),
    "CategoryEncoding": (lambda L: L.CategoryEncoding(20, "multi_hot"), IDS),
    "CenterCrop": (lambda L: L.CenterCrop(4, 4), IMAGE),
    "Dense": (lambda L: L.Dense(3), ROW),
    "Discretization": [
        (lambda L: adapted(L.Discretization(num_bins=4, output_mode="one_hot"), ROW[:, :1]), ROW[:, :1]),
        (lambda L: L.Discretization([45.0, 55.0]), ROW),
    ],
    "Dot": (lambda L: L.Dot(-1), [ROW, ROW]),
    "EinsumDense": (lambda L: L.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), STEPS),
    "Embedding": (lambda L: L.Embedding(20, 3), IDS),
    "Flatten": (lambda L: L.Flatten(), STEPS),
    "GRU": (lambda L: L.GRU(3, return_sequences=True, stateful=True), STEPS),
    "GroupNormalization": (lambda L: L.GroupNormalization(3), ROW),
    "GroupedQueryAttention": (lambda L: L.GroupQueryAttention(2, 4, 2), (STEPS, STEPS)),
    "HashedCrossing": (lambda L: L.HashedCrossing(5), [TOKENS[:, :1], TOKENS[:, 1:]]),
    "Hashing": (lambda L: L.Hashing(50, salt=[3, 4]), TOKENS),
    "IntegerLookup": [
        (lambda L: adapted(L.IntegerLookup(), np.array([7, 7, 11, 13])), IDS),
        (lambda L: L.IntegerLookup(vocabulary=[11, 7], output_mode="multi_hot"), IDS),
    ],
    "LSTM": (lambda L: L.LSTM(3), STEPS),
    "Lambda": (lambda L: L.Lambda(lambda x: x * 2), ROW),
    "LocallyConnected1D": (lambda L: L.LocallyConnected1D(2, 2), STEPS),
    "LocallyConnected2D": (lambda L: L.LocallyConnected2D(2, 2), IMAGE),
    "Masking": (lambda L: L.Masking(0.5), STEPS),
    "MelSpectrogram": (lambda L: L.MelSpectrogram(sequence_stride=500), SOUND),
    "MultiHeadAttention": (lambda L: L.MultiHeadAttention(2, 3), (STEPS, STEPS)),
    "Normalization": [
        (lambda L: adapted(L.Normalization(), ROW), ROW),
        (lambda L: L.Normalization(mean=50.0, variance=81.0), ROW),
        (lambda L: adapted(L.Normalization(invert=True), ROW), ROW),
    ],
    "Permute": (lambda L: L.Permute((2, 1)), STEPS),
    "Pipeline": (lambda L: L.Pipeline([L.Rescaling(0.1), L.RandomFlip()]), IMAGE),
    "RNN": (lambda L: L.RNN([L.LSTMCell(3), L.GRUCell(2)]), STEPS),
    "RandomPosterization": (lambda L: L.RandomPosterization(4), IMAGE),
    "RandomTranslation": (lambda L: L.RandomTranslation(0.2, 0.2), IMAGE),
    # Keras refuses the configuration of RandomShear(0.2).
    "RandomShear": (lambda L: L.RandomShear((0.1, 0.3), (0.1, 0.3)), IMAGE),
    "RandomCrop": (lambda L: L.RandomCrop(4, 4), IMAGE),
    "RepeatVector": (lambda L: L.RepeatVector(3), ROW),
    "Rescaling": (lambda L: L.Rescaling(0.1, 3.0), ROW),
    "Reshape": (lambda L: L.Reshape((3, 2)), ROW),
    "Resizing": (lambda L: L.Resizing(4, 5), IMAGE),
    "ReversibleEmbedding": (lambda L: L.ReversibleEmbedding(20, 3), IDS),
    "STFTSpectrogram": (lambda L: L.STFTSpectrogram(), SOUND[..., None]),
    "SimpleRNN": (lambda L: L.SimpleRNN(3), STEPS),
    "Solarization": (lambda L: L.Solarization(), IMAGE),
    "SpectralNormalization": (lambda L: L.SpectralNormalization(L.Dense(3)), ROW),
    "StringLookup": [
        (lambda L: adapted(L.StringLookup(), np.array(["a", "a", "b", "c"])), TOKENS),
        (lambda L: L.StringLookup(vocabulary=["b", "a"], output_mode="multi_hot"), TOKENS),
        (lambda L: L.StringLookup(vocabulary=["b", "a"], idf_weights=[0.3, 0.7], output_mode="tf_idf"), TOKENS),
    ],
    "TextVectorization": [
        (lambda L: adapted(L.TextVectorization(), np.array(["a b b c"])), WORDS),
        (lambda L: adapted(L.TextVectorization(output_mode="tf_idf"), np.array(["a b b", "b c"])), WORDS),
        (lambda L: L.TextVectorization(vocabulary=["b", "a"], output_mode="count"), WORDS),
    ],
    "TimeDistributed": (lambda L: L.TimeDistributed(L.Dense(3)), STEPS),
}
SAMPLES |= {
    name: (make(name), [ROW, ROW + 1])
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract")
}
SAMPLES |= {
    name: (make(name), ROW)
    for name in ("BatchNormalization", "LayerNormalization", "RMSNormalization", "UnitNormalization", "Identity")
}
SAMPLES |= {name: (make(name), ROW) for name in ("PReLU", "ReLU", "ELU", "LeakyReLU", "ThresholdedReLU", "Softmax")}
SAMPLES |= {name: (make(name, 0.2), ROW) for name in ("Dropout", "AlphaDropout", "GaussianDropout", "GaussianNoise")}
for _rank, _x in ((1, STEPS), (2, IMAGE), (3, VOLUME)):
    _given: dict[str, tuple[Any, ...]] = {
        "Conv{}D": (4, 2),
        "Conv{}DTranspose": (4, 2),
        "GlobalMaxPooling{}D": (),
        "GlobalAveragePooling{}D": (),
        "MaxPooling{}D": (2,),
        "AveragePooling{}D": (2,),
        "AdaptiveMaxPooling{}D": (2,),
        "AdaptiveAveragePooling{}D": (2,),
        "Cropping{}D": (),
        "ZeroPadding{}D": (),
        "UpSampling{}D": (),
        "SpatialDropout{}D": (0.3,),
        **({"DepthwiseConv{}D": (2,), "SeparableConv{}D": (4, 2)} if _rank < 3 else {}),
    }
    SAMPLES |= {name.format(_rank): (make(name.format(_rank), *given), _x) for name, given in _given.items()}
for _rank, _x in ((1, LINES), (2, FRAMES), (3, FRAMES[..., None, :].repeat(3, -2))):
    SAMPLES[f"ConvLSTM{_rank}D"] = (make(f"ConvLSTM{_rank}D", 2, 2), _x)
SAMPLES |= {
    f"Random{name}": (make(f"Random{name}", 0.2), IMAGE)
    for name in (
        *("Brightness", "Contrast", "Hue", "Saturation", "Sharpness", "Rotation", "Zoom", "ColorDegeneration"),
        *("Height", "Width"),
    )
}
SAMPLES |= {
    f"Random{name}": (make(f"Random{name}"), IMAGE)
    for name in (
        "Flip",
        "ColorJitter",
        "ElasticTransform",
        "Erasing",
        "GaussianBlur",
        "Grayscale",
        "Invert",
        "Perspective",
    )
}
SAMPLES |= {
    name: (make(name), IMAGE)
    for name in (
        *("RandAugment", "AugMix", "AutoContrast", "Equalization", "CutMix", "MixUp"),
        "ContrastLimitedAdaptiveHistogramEqualization",
    )
}

# Classes that are no layers of a model by themselves, or stand for what no package of this suite has.
LEFT_OUT = {
    "AbstractRNNCell": "abstract",
    "Layer": "abstract",
    "Wrapper": "abstract",
    "InputLayer": "made anew for a copy",
    "SimpleRNNCell": "a cell, copied inside of RNN",
    "LSTMCell": "a cell, copied inside of RNN",
    "GRUCell": "a cell, copied inside of RNN",
    "StackedRNNCells": "a cell, copied inside of RNN",
    "MaxNumBoundingBoxes": "takes labels",
    "DenseFeatures": "made of feature columns, which have no config",
    "TFSMLayer": "made of a SavedModel",
    "JaxLayer": "for another backend",
    "FlaxLayer": "for another backend",
    "TorchModuleWrapper": "for another backend",
}
# tf_keras builds it with an InputSpec of Keras 3 where that is installed too, and refuses it then.
CANNOT_BE_BUILT = {("SpectralNormalization", "tf_keras")}
