"""With its zeros or without them: which of the two files of a model is kept, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tfprune_init.errors import ExportError, OptionError
from tfprune_init.export.flatbuffer import sparsity
from tfprune_init.export.latency import Times
from tfprune_init.export.sparsify import sparsified
from tfprune_init.export.verify import Agreement
from tfprune_init.export.xnnpack import UNSAFE, xnnpack_advice

PLAIN, SPARSE = "zeros stored", "zeros left out"
"""Names of the two files, where both are timed."""

SLOWER = 1.1
"""How many times as long as the plain file the sparse one may take and still be the better one."""

NOISE_SECONDS = 2e-6
"""A difference too small to speak of, for files that run in microseconds."""

_UNREAD: dict[str | None, str] = {
    "float16": "; sparse float16 weights of transposed convolutions are read as zeros",
    "int8": "; LiteRT doesn't load sparse Dense weights in int8",
}

Check = Callable[[bytes], Agreement]
Time = Callable[[dict[str, bytes]], Times]


@dataclass(frozen=True)
class Chosen:
    """The file that is kept, verified.

    Attributes:
        file: the TFLite file.
        sparse: whether zeros are left out of it.
        agreement: how it compares with the model.
        fallback: why the zeros are stored although "auto" tried to leave them out; None otherwise.
    """

    file: bytes
    sparse: bool
    agreement: Agreement
    fallback: str | None = None


def check_sparse(sparse: bool | str) -> None:
    """Refuse what `sparse` can't be.

    Raises:
        OptionError: it is neither "auto" nor a bool.
    """
    if sparse != "auto" and not isinstance(sparse, bool):
        raise OptionError(f"`sparse` must be 'auto', True or False. Received: {sparse!r}")


def choose(plain: bytes, quantize: str | None, sparse: bool | str, check: Check, time: Time | None = None) -> Chosen:
    """Choose between a file and the same without its zeros.

    "auto" keeps the sparse one if it is smaller, agrees with the model, and takes at most 1.1 times as long. None is
    kept that is known to go wrong on ARM, where this can't be seen by running it here.

    Args:
        plain: the file as converted.
        quantize: how it stores its weights.
        sparse: "auto", True or False.
        check: gives the agreement of a file with the model, or raises ExportError.
        time: times files by name, for "auto"; without it speed has no say.

    Raises:
        ExportError: the file disagrees with the model; or `sparse` is True and there is no such file.
    """
    check_sparse(sparse)
    if sparse is False:
        return Chosen(plain, False, check(plain))
    left_out = sparsified(plain, quantize)
    if left_out is None or _unsafe(left_out):
        reason = _why_none(plain, quantize) if left_out is None else _unsafe(left_out)
        if sparse is True:
            raise ExportError(f"sparse=True can't be done: {reason}. Try sparse='auto'.")
        return Chosen(plain, False, check(plain), reason)
    try:
        agreement = check(left_out)
    except ExportError as error:
        if sparse is True:
            raise ExportError(f"sparse=True can't be done here. {error}") from error
        return Chosen(plain, False, check(plain), f"the file without its zeros failed: {error}")
    slower = _slower(time, plain, left_out) if time is not None and sparse == "auto" else None
    if slower is not None:
        return Chosen(plain, False, check(plain), slower)
    return Chosen(left_out, True, agreement)


def _why_none(plain: bytes, quantize: str | None) -> str:
    if quantize == "dynamic":
        return "TFLite doesn't load sparse weights in operators that quantize as they run (quantize='dynamic')"
    share = f"{sparsity(plain):.0%} of the weights are zero"
    return f"no weight gets smaller ({share}{_UNREAD.get(quantize, '')})"


def _unsafe(left_out: bytes) -> str | None:
    """Why the sparse file may be wrong on ARM, though right here; None if it isn't known to be."""
    advice = xnnpack_advice(left_out)
    if advice.verdict != UNSAFE:
        return None
    return (
        f"without its zeros XNNPACK may compute something else on ARM, as {advice.reason}. {advice.change.rstrip('.')}"
    )


def _slower(time: Time, plain_file: bytes, sparse_file: bytes) -> str | None:
    """Why the sparse file is too slow; None if it isn't, or the plain one doesn't even run."""
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
