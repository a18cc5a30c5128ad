from __future__ import annotations

import dataclasses
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfprune_init import datasets
from tfprune_init.errors import DataError, DatasetUnavailableError, MissingDependencyError, OptionError

# Label counts of the official files, classes 0 to 9.
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def arrays(batches: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def pairs(images: np.ndarray, labels: np.ndarray) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points the probe at a local port that was free a moment ago, so that nothing answers anywhere."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(datasets.tfds, "_PROBE_ADDRESS", unused.getsockname())
    for variable in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, int]]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()


@pytest.fixture(scope="module")
def mnist(tfds_dir: Path) -> datasets.Dataset:
    return datasets.load("mnist", tfds_dir)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets of our own, written by TFDS: image i of `tiny` is filled with the grey value i."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")

    def write(name: str, image: tfds.features.Image, **sizes: int) -> None:
        def examples(count: int) -> tf.data.Dataset:
            shape = [side or 5 for side in image.shape]
            return tf.data.Dataset.range(count).map(
                lambda i: {"image": tf.fill(shape, tf.cast(i, image.np_dtype)), "label": i % 4}
            )

        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=4)}),
            split_datasets={split: examples(count) for split, count in sizes.items()},
            data_dir=folder,
            disable_shuffling=True,
        )

    tfds.disable_progress_bar()
    write("tiny", tfds.features.Image(shape=(6, 5, 1)), train=50, validation=11)
    write("deep", tfds.features.Image(shape=(6, 5, 1), dtype=np.uint16), train=3, test=2)
    write("train_only", tfds.features.Image(shape=(6, 5, 1)), train=3)
    write("many_sizes", tfds.features.Image(shape=(None, None, 1)), train=3, test=2)
    write("floats", tfds.features.Image(shape=(6, 5, 1), dtype=np.float32), train=3, test=2)
    return folder


def test_digits_is_the_default_and_every_image_is_there_once() -> None:
    from sklearn.datasets import load_digits

    ds = datasets.load()
    assert (ds.name, ds.classes, ds.input_shape) == ("digits", 10, (8, 8, 1))
    assert (ds.train_size, ds.test_size) == (1437, 360)
    assert ds.description == "digits: 1,437 training and 360 test images of 8x8x1, 10 classes"
    train, test = arrays(ds.train), arrays(ds.test)
    assert (len(train[1]), len(test[1])) == (1437, 360)
    original = load_digits()
    theirs = pairs((original.images / 16).astype(np.float32), original.target)
    # No two of the 1,797 images are equal, so equal sets mean: none lost, none doubled, no overlap.
    assert len(theirs) == 1797
    assert pairs(*train) | pairs(*test) == theirs


def test_digits_split_is_stratified() -> None:
    ds = datasets.load("digits")
    train, test = (np.bincount(arrays(split)[1], minlength=10) for split in (ds.train, ds.test))
    np.testing.assert_array_equal(train + test, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    assert np.abs(test - (train + test) / 5).max() < 1


def test_batches_are_float_images_in_0_to_1_and_integer_labels() -> None:
    ds = datasets.load("digits", batch_size=100)
    shapes = [(tuple(images.shape), tuple(labels.shape)) for images, labels in ds.train]
    assert shapes == [((100, 8, 8, 1), (100,))] * 14 + [((37, 8, 8, 1), (37,))]
    assert ds.train.element_spec[0].dtype == tf.float32
    assert ds.train.element_spec[1].dtype == tf.int64
    images, _ = arrays(ds.train)
    # Seventeen grey levels, exactly.
    np.testing.assert_array_equal(np.unique(images), np.arange(17, dtype=np.float32) / 16)


def test_train_order_is_the_same_in_every_epoch_and_load_whatever_the_global_seed() -> None:
    tf.random.set_seed(1)
    ds = datasets.load("digits", seed=7)
    first, again = arrays(ds.train), arrays(ds.train)
    tf.random.set_seed(2)
    reloaded = arrays(datasets.load("digits", seed=7, batch_size=50).train)
    for images, labels in (again, reloaded):
        np.testing.assert_array_equal(images, first[0])
        np.testing.assert_array_equal(labels, first[1])


def test_seed_moves_the_train_order_and_nothing_else() -> None:
    one, two = datasets.load("digits", seed=0), datasets.load("digits", seed=1)
    (images_one, labels_one), (images_two, labels_two) = arrays(one.train), arrays(two.train)
    assert not np.array_equal(labels_one, labels_two)
    assert sorted(i.tobytes() for i in images_one) == sorted(i.tobytes() for i in images_two)
    for ours, theirs in zip(arrays(one.test), arrays(two.test), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_train_is_shuffled_and_test_is_not() -> None:
    from sklearn.datasets import load_digits

    original = [image.tobytes() for image in (load_digits().images / 16).astype(np.float32)]
    ds = datasets.load("digits")
    position = {image: index for index, image in enumerate(original)}
    train, test = ([position[i.tobytes()] for i in arrays(split)[0]] for split in (ds.train, ds.test))
    assert test == sorted(test)
    # A random order leaves no trace of the stored one: the correlation of 1,437 positions is within 4 sigma.
    assert abs(np.corrcoef(train, np.arange(1437))[0, 1]) < 4 / np.sqrt(1437)


def test_digits_can_be_learned() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    ds = datasets.load("digits")
    (x, y), (x_test, y_test) = arrays(ds.train), arrays(ds.test)
    model = KNeighborsClassifier(1).fit(x.reshape(len(x), -1), y)
    assert model.score(x_test.reshape(len(x_test), -1), y_test) > 0.97


def test_dataset_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        datasets.load("digits").classes = 3  # type: ignore[misc]


@pytest.mark.slow
def test_mnist_is_the_official_one(mnist: datasets.Dataset) -> None:
    assert (mnist.name, mnist.classes, mnist.input_shape) == ("mnist", 10, (28, 28, 1))
    assert (mnist.train_size, mnist.test_size) == (60_000, 10_000)
    assert mnist.description == "MNIST: 60,000 training and 10,000 test images of 28x28x1, 10 classes"
    images, labels = arrays(mnist.train)
    assert np.bincount(labels).tolist() == MNIST_TRAIN
    assert np.bincount(arrays(mnist.test)[1]).tolist() == MNIST_TEST
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    # The mean and deviation that every MNIST example normalizes with.
    assert images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert images.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)


def test_cifar10_says_when_it_is_a_subset(tfds_dir: Path) -> None:
    ds = datasets.load("cifar10", tfds_dir)
    assert (ds.classes, ds.input_shape) == (10, (32, 32, 3))
    labels = arrays(ds.train)[1], arrays(ds.test)[1]
    assert (ds.train_size, ds.test_size) == (len(labels[0]), len(labels[1]))
    assert np.unique(np.bincount(labels[0])).tolist() == [ds.train_size // 10]
    if ds.train_size == 50_000:
        assert "subset" not in ds.description
    else:
        assert ds.description == (
            f"CIFAR-10 subset: {ds.train_size:,} of 50,000 training and {ds.test_size:,} of 10,000 test "
            "images of 32x32x3, 10 classes"
        )


@pytest.mark.parametrize(
    ("sizes", "start"),
    [
        ((50_000, 10_000), "CIFAR-10: 50,000 training and 10,000 test images"),
        ((50_000, 9_999), "CIFAR-10 subset: 50,000 of 50,000 training and 9,999 of 10,000 test images"),
    ],
)
def test_only_the_whole_of_cifar10_is_called_cifar10(sizes: tuple[int, int], start: str) -> None:
    assert datasets.dataset._describe("cifar10", sizes, 10, (32, 32, 3), "test").startswith(start)


def test_name_is_the_canonical_one(own_data: Path) -> None:
    assert datasets.load("tiny:1.0.0", own_data).name == "tiny"


def test_data_dir_may_come_from_the_environment(own_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(own_data))
    assert datasets.load("tiny").train_size == 50


@pytest.mark.parametrize("limit", [1 << 30, 1000], ids=["in memory", "streamed"])
def test_own_tfds_data_in_memory_and_streamed(own_data: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(datasets.tfds, "_IN_MEMORY_BYTES", limit)
    ds = datasets.load("tiny", own_data, batch_size=8, seed=3)
    assert ds.description == "tiny: 50 training and 11 validation images of 6x5x1, 4 classes"
    images, labels = arrays(ds.train)
    for again in (ds, datasets.load("tiny", own_data, batch_size=8, seed=3)):
        np.testing.assert_array_equal(arrays(again.train)[0], images)
    grey = np.rint(images[:, 0, 0, 0] * 255).astype(int)
    assert sorted(grey) == list(range(50))
    assert grey.tolist() != list(range(50))
    np.testing.assert_array_equal(labels, grey % 4)
    other = datasets.load("tiny", own_data, batch_size=8, seed=4)
    assert not np.array_equal(arrays(other.train)[0], images)
    images, labels = arrays(ds.test)
    np.testing.assert_array_equal(images[:, 5, 4, 0], np.arange(11, dtype=np.float32) / 255)
    np.testing.assert_array_equal(labels, np.arange(11) % 4)


def test_sixteen_bit_images_are_scaled_by_their_own_white(own_data: Path) -> None:
    images, _ = arrays(datasets.load("deep", own_data).test)
    assert images[1, 0, 0, 0] == pytest.approx(1 / 65535)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train_only", ["'train_only'", "['train']", "'validation'"]),
        ("many_sizes", ["'many_sizes'", "(None, None, 1)", "Resize"]),
        ("floats", ["'floats'", "float32", "scale"]),
        ("imdb_reviews", ["'imdb_reviews'", "['label', 'text']", '"mnist"']),
        ("coco/2017", ["'coco/2017'", "'objects'", '"mnist"']),
    ],
)
def test_what_is_not_image_classification_is_refused(own_data: Path, name: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        datasets.load(name, own_data)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fashon_mnist", ["'fashon_mnist'", "Did you mean 'fashion_mnist'"]),
        ("digit", ["Did you mean 'digits'"]),
        ("qqqqqqqqqq", ["'qqqqqqqqqq'", "tfds.list_builders()"]),
        ("mnist:9.9.9", ["'mnist:9.9.9'", "3.0.1"]),
        ("no such name", ["'no such name'", "'name/config'"]),
    ],
)
def test_unknown_name_gives_the_nearest(tmp_path: Path, name: str, words: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        datasets.load(name, tmp_path)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("batch_size", 2.5), ("seed", -1), ("seed", None)])
def test_bad_options_are_refused(option: str, value: object) -> None:
    with pytest.raises(OptionError, match=f"{option} must be .* Received: {option}={value}"):
        datasets.load("digits", **{option: value})  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_network")
def test_without_network_it_fails_fast_and_says_what_to_try(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(DatasetUnavailableError) as caught:
        datasets.load("kmnist", tmp_path)
    assert time.monotonic() - start < 20
    message = str(caught.value)
    words = [
        "name='kmnist'",
        str(tmp_path),
        "no network",
        'load("digits")',
        "TFDS_DATA_DIR",
        "tfds build kmnist",
    ]
    assert [word for word in words if word not in message] == []
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_without_network_or_data_dir_the_default_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(DatasetUnavailableError) as caught:
        datasets.load("kmnist")
    assert str(tmp_path / "tensorflow_datasets" / "kmnist") in str(caught.value)


def test_probe_gives_up_on_a_host_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*args: object, **options: object) -> None:
        released.wait(60)
        raise OSError("no such host")

    monkeypatch.setattr(datasets.tfds, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert not datasets.tfds._is_network_reachable()
    assert time.monotonic() - start < 5
    released.set()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_probe_asks_the_proxy_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, listener: tuple[str, int], scheme: str
) -> None:
    assert not datasets.tfds._is_network_reachable()
    monkeypatch.setenv("https_proxy", f"{scheme}{listener[0]}:{listener[1]}")
    assert datasets.tfds._is_network_reachable()


@pytest.mark.usefixtures("no_network")
def test_failed_download_is_reported_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: tuple[str, int]
) -> None:
    # The probe succeeds; TFDS then fails at once, because a file stands where its folder should be.
    monkeypatch.setattr(datasets.tfds, "_PROBE_ADDRESS", listener)
    (tmp_path / "kmnist").write_text("in the way")
    with pytest.raises(DatasetUnavailableError, match="download failed") as caught:
        datasets.load("kmnist", tmp_path)
    assert isinstance(caught.value.__cause__, OSError)
    assert 'load("digits")' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "modules"),
    [("digits", ["sklearn", "sklearn.datasets"]), ("mnist", ["tensorflow_datasets"])],
)
def test_missing_extra_names_the_pip_command(monkeypatch: pytest.MonkeyPatch, name: str, modules: list[str]) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError) as caught:
        datasets.load(name)
    assert 'pip install "tfprune_init[data]"' in str(caught.value)
    assert modules[0] in str(caught.value)


@pytest.mark.process
def test_import_is_light_and_a_normal_run_is_silent(own_data: Path) -> None:
    """In a fresh process: no heavy import before it is needed, never tf_keras or TF-MOT, no warning."""
    program = f"""
import sys
from tfprune_init import datasets
assert not [m for m in ("tensorflow_datasets", "sklearn.datasets") if m in sys.modules]
datasets.load("tiny", {str(own_data)!r})
assert not [m for m in ("tf_keras", "tensorflow_model_optimization") if m in sys.modules]
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        cwd=Path(datasets.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    # TensorFlow's own C++ start-up lines are not ours to silence.
    assert "WARNING:absl" not in done.stderr
    assert "tfprune_init" not in done.stderr
