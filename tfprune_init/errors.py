"""Everything that can go wrong, by name.

Every message says what was received and what to try. All errors derive from `PruningError`;
those that report a bad argument are also `ValueError`s, so existing handlers catch them.
"""

from __future__ import annotations

from typing import Any


class PruningError(Exception):
    """Base class of every error this package raises on purpose.

    Attributes:
        ag_pass_through: AutoGraph leaves errors that have it as they are, where it would raise another one in place.
    """

    ag_pass_through = True


class OptionError(PruningError, ValueError):
    """An option is out of range, unknown, or has no effect on the chosen method."""


class ModelError(PruningError, ValueError):
    """The model cannot be pruned as it is: unbuilt, without a loss, nothing prunable, NaN weights."""


class DataError(PruningError, ValueError):
    """The dataset is empty, unbatched, malformed, or holds NaN or Inf."""


class ScoreError(PruningError):
    """The scores are unusable: NaN, Inf, or no gradient reached them."""


class NetworkCollapseError(PruningError):
    """The pruned network passes no signal from its inputs to its outputs.

    Args:
        message: How the network collapsed, and what to try.
        masks: The masks of the collapsed network, `tpi.Masks`.
        report: What is left of it, `tpi.PruningReport`.
    """

    def __init__(self, message: str, masks: Any, report: Any):
        super().__init__(message)
        self.masks = masks
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it travel between processes."""
        return type(self), (*self.args, self.masks, self.report)


class NetworkCollapseWarning(UserWarning):
    """The pruned network passes no signal, and the caller asked for its masks: `on_collapse="warn"`."""


class LossWarning(UserWarning):
    """Connections are judged by a loss that the model may not train with."""


class MaskMismatchError(PruningError, ValueError):
    """The masks were made for another model; the message names what does not fit."""


class MaskFileError(PruningError, ValueError):
    """The file is not a mask file, or it is truncated or damaged."""


class EnforcementError(PruningError):
    """Pruned weights could not be held at exactly zero."""


class BackendError(PruningError):
    """The installed TensorFlow, Keras or tf_keras is not what this version of the package was made for."""


class ReplicaError(PruningError):
    """The replicas or workers of a distributed model do not agree, or were called one by one."""


class CheckpointError(PruningError, ValueError):
    """The checkpoint of a training is damaged, or belongs to another training."""


class ExportError(PruningError):
    """The model could not be exported, or the exported file disagrees with the model."""


class DatasetUnavailableError(PruningError):
    """The dataset is neither prepared here nor can it be downloaded."""


class MissingDependencyError(PruningError, ImportError):
    """A package that is not part of every installation is needed and missing.

    Args:
        purpose: What needs it, to begin the message with, such as "A figure".
        packages: What pip calls the packages, separated by spaces.
        extra: The extra of tfprune_init that brings them; None if there is none.
        received: What importing them said, if that tells more.
    """

    def __init__(self, purpose: str, packages: str, extra: str | None = None, received: str | None = None):
        self._given = (purpose, packages, extra, received)
        wanted = packages if extra is None else f'"tfprune_init[{extra}]"'
        said = "" if received is None else f" Received: {received}."
        super().__init__(f"{purpose} needs {' and '.join(packages.split())}.{said} Try: pip install {wanted}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it travel between processes."""
        return type(self), self._given
