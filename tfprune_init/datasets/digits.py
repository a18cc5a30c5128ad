"""scikit-learn's digits: 1,797 images of 8x8 pixels that need no download."""

from __future__ import annotations

import numpy as np

from tfprune_init.datasets.dataset import Dataset, make_dataset, make_split
from tfprune_init.errors import MissingDependencyError


def load_digits(batch_size: int, seed: int) -> Dataset:
    """Load the digits; every fifth image of each class is held out.

    Raises:
        MissingDependencyError: If scikit-learn is missing.

    Example:
        >>> load_digits(batch_size=64, seed=0).description
        'digits: 1,437 training and 360 test images of 8x8x1, 10 classes'
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingDependencyError("The dataset 'digits'", "scikit-learn", "data", str(error)) from error
    digits = datasets.load_digits()
    images = digits.images[..., np.newaxis].astype(np.uint8)
    labels = digits.target.astype(np.int64)
    # Every fifth image of the list sorted by class: 20% of each class, whatever the scikit-learn version.
    by_class = np.argsort(labels, kind="stable")
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[by_class[::5]] = True
    return make_dataset(
        "digits",
        make_split(images[~held_out], labels[~held_out], seed),
        make_split(images[held_out], labels[held_out]),
        sizes=(int(np.sum(~held_out)), int(np.sum(held_out))),
        classes=10,
        input_shape=(8, 8, 1),
        batch_size=batch_size,
        white=16,
    )
