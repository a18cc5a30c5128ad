"""The noise test, on networks that tell how many pixels were overwritten."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune_init as tpi
from tfprune_init.errors import DataError, ModelError, OptionError
from tfprune_init.experiments.noise import NOISE_LEVELS, _overwrite

PIXELS = (0, 39, 78, 117, 156, 196, 235, 274, 313, 352, 392)  # of 784, as in the paper's code


def counter() -> Any:
    """On images of zeros with pixels of 1, the class is the number of these: c * n - c^2 / 2 is largest at c = n."""
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(400)])
    c = np.arange(400.0)
    model.layers[-1].set_weights([np.tile(c, (784, 1)), -(c**2) / 2])
    return model


def test_every_image_loses_exactly_so_many_pixels() -> None:
    labels = np.array([*PIXELS, *PIXELS[:4]])
    found = tpi.run_noise_test(counter(), (np.zeros((15, 28, 28, 1), "float32"), labels), value=1.0)
    assert found.levels == NOISE_LEVELS == (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    assert found.pixels == PIXELS
    assert found.right == (2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1)
    assert (found.score, found.examples) == (15, 15)
    assert found.accuracies == pytest.approx([2 / 15] * 4 + [1 / 15] * 7)


def test_pixels_are_drawn_evenly_and_for_each_image_anew() -> None:
    images = np.random.default_rng(0).random((4000, 3, 4, 2)).astype("float32")
    noisy = _overwrite(images, 3, 2.0, np.random.default_rng(1))
    lost = (noisy == 2.0).all(axis=-1)
    assert (noisy[~lost] == images[~lost]).all()
    assert (lost.sum(axis=(1, 2)) == 3).all()
    assert len(np.unique(lost.reshape(len(lost), -1), axis=0)) == 220  # all ways to take 3 of 12
    # 1,000 of 4,000 each, within 4.5 standard deviations of a binomial count.
    assert abs(lost.sum(axis=0) - 1000).max() < 4.5 * (4000 * 0.25 * 0.75) ** 0.5


def classifier() -> Any:
    keras.utils.set_random_seed(0)
    return tpi.models.sparse_cnn_1((8, 8, 1), 3, seed=0)


def test_batches_and_order_of_calls_do_not_matter_and_no_trace_is_left() -> None:
    model, rng = classifier(), np.random.default_rng(0)
    x, y = rng.normal(size=(50, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 50)
    before = [np.asarray(variable) for variable in model.variables]
    whole = tpi.run_noise_test(model, (x, y))
    assert tpi.run_noise_test(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(7)) == whole
    assert tpi.run_noise_test(model, (x, y), seed=1) != whole
    assert whole.right[0] == np.count_nonzero(model.predict(x, verbose=0).argmax(axis=1) == y)
    assert all((old == np.asarray(new)).all() for old, new in zip(before, model.variables, strict=True))


X, Y = np.zeros((4, 8, 8, 1), "float32"), np.zeros(4, int)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": ()}, "Received: levels=()"),
        ({"levels": (0.1, 1.1)}, "numbers in [0, 1]. Received: levels=1.1"),
        ({"value": np.nan}, "Received: value=nan"),
        ({"seed": -1}, "Received: seed=-1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        tpi.run_noise_test(classifier(), (X, Y), **options)


@pytest.mark.parametrize(
    "data", [(X, Y.astype("float32")), (X[..., 0], Y), (X.astype("uint8"), Y), (X, keras.utils.to_categorical(Y, 3))]
)
def test_what_is_no_image_with_a_label_is_refused(data: Any) -> None:
    with pytest.raises(DataError, match=r"images of floats.*Received in batch 1: x of shape"):
        tpi.run_noise_test(classifier(), data)


def test_models_without_scores_for_classes_are_refused() -> None:
    single = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    with pytest.raises(ModelError, match=r"outputs of shape \(4, 1\)"):
        tpi.run_noise_test(single, (X, Y))
    broken = classifier()
    broken.get_layer("head").bias.assign([np.nan, 0, 0])
    with pytest.raises(ModelError, match="4 of them not finite"):
        tpi.run_noise_test(broken, (X, Y))
