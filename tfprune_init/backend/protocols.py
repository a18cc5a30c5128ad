"""What models, layers and variables of both Kerases share, as far as this package uses it: for type checkers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Variable(Protocol):
    """A variable of Keras 3, or a tf.Variable of tf_keras."""

    name: str
    constraint: Any
    trainable: bool

    @property
    def shape(self) -> Any:
        """Its shape, a tuple or a TensorShape."""

    @property
    def dtype(self) -> Any:
        """Its dtype: a name, or a tf.DType."""

    @property
    def initializer(self) -> Any:
        """Its initializer."""

    def assign(self, value: Any) -> Any:
        """Give it a value."""

    def numpy(self) -> Any:
        """Return its value as an array."""


class Layer(Protocol):
    """A layer of Keras 3 or of tf_keras."""

    name: str
    trainable: bool

    @property
    def built(self) -> bool:
        """Whether its variables are there."""

    @property
    def dtype(self) -> Any:
        """The dtype of its variables."""

    @property
    def variables(self) -> Sequence[Any]:
        """All of its variables, those of layers inside included."""

    @property
    def weights(self) -> Sequence[Any]:
        """Its variables but those of metrics and random numbers."""

    @property
    def trainable_variables(self) -> Sequence[Any]:
        """Those that an optimizer changes."""

    @property
    def input(self) -> Any:
        """Its symbolic input."""

    @property
    def output(self) -> Any:
        """Its symbolic output."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute its outputs."""

    def __getattr__(self, name: str) -> Any:
        """Return what only some kinds of layers have, such as `activation`."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of its constructor."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Make one of a config."""

    def get_weights(self) -> list[Any]:
        """Return the values of `weights`, as arrays."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of `weights`."""


class Model(Layer, Protocol):
    """A model of Keras 3 or of tf_keras."""

    optimizer: Any
    stop_training: bool

    @property
    def inputs(self) -> Any:
        """Its symbolic inputs, if it has some."""

    @property
    def outputs(self) -> Any:
        """Its symbolic outputs, if it has some."""

    @property
    def layers(self) -> Sequence[Any]:
        """Its layers, not those inside of them."""

    @property
    def loss(self) -> Any:
        """The loss it is compiled with."""

    @property
    def losses(self) -> Sequence[Any]:
        """What layers and regularizers add to the loss."""

    def count_params(self) -> int:
        """Return the number of its parameters."""

    def get_layer(self, name: str) -> Any:
        """Return the layer of that name."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Set optimizer, loss and metrics."""

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Train it."""

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Compute its loss and metrics."""

    def reset_metrics(self) -> None:
        """Let its metrics begin anew."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Compute its outputs in batches."""

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Write it to a file."""

    def load_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Read the values of its variables from a file."""

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Write the values of its variables to a file."""
