"""Choose between the two files of a model: zeros stored, or zeros left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export.flatbuffer import measure_sparsity
from tfprune_init.export.latency import Times
from tfprune_init.export.sparsification import sparsify
from tfprune_init.export.verification import Agreement
from tfprune_init.export.xnnpack import UNSAFE, xnnpack_advice

PLAIN, SPARSE = "zeros stored", "zeros left out"
"""Names of the two files, where both are timed."""

SLOWER = 1.1
"""Largest time of the sparse file, relative to the plain one, at which it is still preferred."""

NOISE_SECONDS = 2e-6
"""Difference that is ignored, for files that run in microseconds."""

_UNREAD: dict[str | None, str] = {
    "float16": "; sparse float16 weights of transposed convolutions are read as zeros",
    "int8": "; LiteRT doesn't load sparse Dense weights in int8",
}

Check = Callable[[bytes], Agreement]
Time = Callable[[dict[str, bytes]], Times]


@dataclass(frozen=True)
class SelectedFile:
    """The selected file, verified.

    Attributes:
        file: The TFLite file.
        sparse: Whether zeros are left out of it.
        agreement: Differences to the model.
        fallback: Reason why "auto" stored the zeros; None otherwise.
    """

    file: bytes
    sparse: bool
    agreement: Agreement
    fallback: str | None = None


def check_sparse(sparse: bool | str) -> None:
    """Refuse values that `sparse` cannot have.

    Raises:
        OptionError: If it is neither "auto" nor a bool.
    """
    if sparse != "auto" and not isinstance(sparse, bool):
        raise OptionError(f"`sparse` must be 'auto', True or False. Received: {sparse!r}")


def select_file(
    plain: bytes, quantize: str | None, sparse: bool | str, check: Check, time: Time | None = None
) -> SelectedFile:
    """Choose between a file and the same file without its zeros.

    "auto" selects the sparse file if it is smaller, agrees with the model, and takes at most 1.1 times as long. A
    sparse file that is known to give wrong outputs on ARM is never selected, since running it here would not show that.

    Args:
        plain: The file as converted.
        quantize: Type in which it stores its weights.
        sparse: "auto", True or False.
        check: Gives the agreement of a file with the model, or raises ExportError.
        time: Times files by name, for "auto"; without it speed is not considered.

    Raises:
        ExportError: If the file disagrees with the model; or `sparse` is True and there is no such file.
    """
    check_sparse(sparse)
    if sparse is False:
        return SelectedFile(plain, False, check(plain))
    sparse_file = sparsify(plain, quantize)
    if sparse_file is None or _explain_unsafe(sparse_file):
        reason = _explain_no_gain(plain, quantize) if sparse_file is None else _explain_unsafe(sparse_file)
        if sparse is True:
            raise ExportError(f"sparse=True is not possible: {reason}. Try sparse='auto'.")
        return SelectedFile(plain, False, check(plain), reason)
    try:
        agreement = check(sparse_file)
    except ExportError as error:
        if sparse is True:
            raise ExportError(f"sparse=True is not possible here. {error}") from error
        return SelectedFile(plain, False, check(plain), f"the file without its zeros failed: {error}")
    slower = _explain_slower(time, plain, sparse_file) if time is not None and sparse == "auto" else None
    if slower is not None:
        return SelectedFile(plain, False, check(plain), slower)
    return SelectedFile(sparse_file, True, agreement)


def _explain_no_gain(plain: bytes, quantize: str | None) -> str:
    if quantize == "dynamic":
        return "TFLite doesn't load sparse weights in operators that quantize as they run (quantize='dynamic')"
    share = f"{measure_sparsity(plain):.0%} of the weights are zero"
    return f"no weight gets smaller ({share}{_UNREAD.get(quantize, '')})"


def _explain_unsafe(sparse_file: bytes) -> str | None:
    """Explain why the sparse file may be wrong on ARM, though right here; None if no reason is known."""
    advice = xnnpack_advice(sparse_file)
    if advice.verdict != UNSAFE:
        return None
    return (
        f"without its zeros XNNPACK may compute something else on ARM, as {advice.reason}. {advice.change.rstrip('.')}"
    )


def _explain_slower(time: Time, plain_file: bytes, sparse_file: bytes) -> str | None:
    """Explain why the sparse file is too slow; None if it is not, or if the plain file does not run."""
    try:
        times = time({PLAIN: plain_file, SPARSE: sparse_file})
    except ExportError:
        return None
    if not {PLAIN, SPARSE} <= times.latencies.keys():
        return None
    plain, sparse = (times.latencies[name].median_seconds for name in (PLAIN, SPARSE))
    if sparse <= SLOWER * plain + NOISE_SECONDS:
        return None
    return (
        f"without its zeros the file takes {1e6 * sparse:,.0f} us a run, with them {1e6 * plain:,.0f} us "
        f"({times.interpreter}, this machine)"
    )
