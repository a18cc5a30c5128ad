"""What a reconstruction found: masks, rewritten weights, and an account of each layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import MaskMismatchError
from tfprune_init.masking.attachment import attach
from tfprune_init.masks import Masks


@dataclass(frozen=True)
class ReconstructedLayer:
    """The channels of one layer that stay, and what the next layer makes of them.

    Attributes:
        path: The kernel that lost units.
        next_path: The kernel that takes them; None where that is not known, or of no interest to the method.
        channels: Number of its units.
        kept: Those that stay, ascending.
        error_before: How far the next layer is from what it should give with the weights it had:
            |target - what it gives|^2 as a share of |target|^2, without biases. None without data.
        error_after: The same with the weights rewritten.
    """

    path: str
    next_path: str | None
    channels: int
    kept: tuple[int, ...]
    error_before: float | None = None
    error_after: float | None = None


@dataclass(frozen=True, eq=False)
class ChannelReconstruction:
    """Whole channels to remove, and weights to rewrite, of one network. The model is untouched until `apply`.

    Attributes:
        method: The method.
        refit: What was done to the next layers.
        masks: What is kept, of every variable that units have weights in.
        weights: New values of the variables that were rewritten, with zeros where the masks have them.
        layers: An account of each layer that was pruned, in the order in which that was done.
        skipped: Why each other prunable kernel keeps all its units.
    """

    method: str
    refit: str
    masks: Masks
    weights: Mapping[str, np.ndarray]
    layers: tuple[ReconstructedLayer, ...]
    skipped: dict[str, str]
    _digests: Mapping[str, str]

    def apply(self, model: Model) -> None:
        """Rewrite the weights, set those of the removed channels to zero, and hold them there.

        Args:
            model: The model that this was found for, or a copy of it with the same weights.

        Raises:
            MaskMismatchError: If the model is another one, or its weights have changed since. It stays as it is.
            EnforcementError: If masks cannot be held on the model, as in `tpi.attach`.
        """
        variables = self.masks.check(model)
        changed = [path for path, digest in self._digests.items() if compute_digest(variables[path].tensor) != digest]
        if changed:
            raise MaskMismatchError(
                f"The weights of {', '.join(changed[:3])} are not those that this reconstruction started from, so what "
                "was fitted to them would be wrong. Call tpi.reconstruct_channels again on the model as it is."
            )
        attach(model, self.masks)
        for path, values in self.weights.items():
            variables[path].tensor.assign(values)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but masks and weights, in types that JSON knows."""
        return {
            "method": self.method,
            "refit": self.refit,
            "layers": [{**asdict(layer), "kept": list(layer.kept)} for layer in self.layers],
            "skipped": self.skipped,
        }

    def print(self, file: IO[str] | None = None) -> None:
        """Print the account as tables; to standard output if no `file` is given."""
        from rich.console import Console
        from rich.table import Table

        console = Console(file=file)
        table = Table(title=f"{self.method}, refit: {self.refit}", title_justify="left")
        table.add_column("layer", overflow="fold")
        for name in ("channels", "stay", "error before", "after"):
            table.add_column(name, justify="right")
        for layer in self.layers:
            errors = ["" if one is None else f"{one:.2%}" for one in (layer.error_before, layer.error_after)]
            table.add_row(layer.path, f"{layer.channels:,}", f"{len(layer.kept):,}", *errors)
        console.print(table)
        if self.skipped:
            whole = Table(title="left whole", title_justify="left")
            whole.add_column("layer", overflow="fold")
            whole.add_column("reason", overflow="fold")
            for path, why in self.skipped.items():
                whole.add_row(path, why)
            console.print(whole)


def compute_digest(tensor: Any) -> str:
    """Return the SHA-256 of the values of a variable."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(tensor)).tobytes()).hexdigest()
