"""Why TensorRT failed, in one sentence, from what it told its logger.

TensorRT returns nothing where it fails. Its log then holds the reason, often lines before the last
and in a message that names something else: a node without an implementation is mostly memory that
was short. The table of what its messages mean is `edgeattn.engine.tensorrt.failure_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from edgeattn.engine.tensorrt.failure_table import FAILURES, KINDS, look_up
from edgeattn.engine.tensorrt.log import CapturedLog, LogLine
from edgeattn.errors import BuildError, EdgeAttnError, EngineError

_MOST_QUOTED = 240
_UNKNOWN_HINT = (
    "the lines before it in TensorRT's log (NAME.engine.log of a build) may say more; "
    "`edgeattn doctor` looks at the machine"
)
_SILENT_HINT = (
    "`edgeattn doctor` looks at the machine, and `sudo dmesg` tells of memory that the kernel "
    "refused; torch_tensorrt or ONNX Runtime's TensorRT in the same process take its messages"
)
_NO_START_HINT = "nvidia-smi shows whether the driver runs; `edgeattn doctor` looks at the machine"

E = TypeVar("E", bound=EdgeAttnError)


@dataclass(frozen=True)
class Explanation:
    """What a message of TensorRT means.

    Attributes:
        cause: What went wrong, without a full stop.
        hint: What to do about it.
        line: The message.
        row: Key of the row in the table.
    """

    cause: str
    hint: str
    line: LogLine
    row: str


def explain(lines: Sequence[LogLine]) -> list[Explanation]:
    """Find what a log says of a failure, the root cause first.

    A row counts once, by its first message. Rows are ordered by their kind, from causes to
    consequences, and within one kind by time; memory by the table, which has figures first.

    Args:
        lines: What TensorRT said, oldest first. Errors and warnings count.

    Returns:
        Nothing if no message is known.
    """
    found: dict[str, tuple[tuple[int, int], Explanation]] = {}
    for line in lines:
        if line.severity in ("info", "verbose"):
            continue
        for row, cause in look_up(line.text):
            if row.key not in found:
                explanation = Explanation(cause, row.hint, line, row.key)
                place = FAILURES.index(row) if row.kind == "memory" else 0
                found[row.key] = ((KINDS.index(row.kind), place), explanation)
    return [explanation for _, explanation in sorted(found.values(), key=lambda pair: pair[0])]


def build_error(what: str, log: CapturedLog, *, since: float = 0.0) -> BuildError:
    """Make the error of a build that TensorRT refused.

    Args:
        what: What failed, such as `TensorRT built no engine`.
        log: What TensorRT said.
        since: When it began, by `log.now()`: a log holds the lines of the whole process.

    Returns:
        To be raised: what failed and why, with TensorRT's own message, and what to do.
    """
    return _error(BuildError, what, log, since)


def engine_error(what: str, log: CapturedLog, *, since: float = 0.0) -> EngineError:
    """Make the error of an engine that TensorRT could not load or run; as `build_error`."""
    return _error(EngineError, what, log, since)


def explain_exception(
    err: BaseException, kind: type[E], log: CapturedLog, *, since: float = 0.0
) -> E | None:
    """Make the error of what TensorRT's Python bindings raise where they do raise.

    Args:
        err: The exception.
        kind: Class of the error to make.
        log: What TensorRT said.
        since: When it began, by `log.now()`.

    Returns:
        To be raised from the exception; `None` if the bindings are not known to raise that.
    """
    if isinstance(err, TypeError) and "factory function returned nullptr" in str(err):
        # What the bindings make of a null pointer for a Builder or a Runtime.
        return _error(kind, "TensorRT does not start", log, since, hint=_NO_START_HINT)
    if isinstance(err, AttributeError) and _is_of_bindings(err.obj):
        return kind(
            f"this TensorRT has no {err.name}: {err}",
            "edgeattn knows 10.3 to 11.4; `edgeattn doctor` says which TensorRT this is",
        )
    return None


def _is_of_bindings(thing: object) -> bool:
    """Tell whether a module, class or object is of TensorRT's Python package."""
    if isinstance(thing, ModuleType):
        name = thing.__name__
    else:
        name = (thing if isinstance(thing, type) else type(thing)).__module__
    return name.partition(".")[0] in ("tensorrt", "tensorrt_bindings")


def _error(kind: type[E], what: str, log: CapturedLog, since: float, hint: str = _SILENT_HINT) -> E:
    lines = [line for line in log.lines if line.seconds >= since]
    if found := explain(lines):
        first = found[0]
        return kind(f"{what}: {first.cause} (TensorRT: {_shortened(first.line.text)})", first.hint)
    for severities in (("internal_error", "error"), ("warning",)):
        said = [line for line in lines if line.severity in severities]
        if said:
            return kind(f"{what}; TensorRT said: {_shortened(said[-1].text)}", _UNKNOWN_HINT)
    return kind(f"{what}, and gives no reason", hint)


def _shortened(text: str) -> str:
    """Put a message on one line, without its middle if it is long."""
    text = " ".join(text.split())
    if len(text) > _MOST_QUOTED:
        half = (_MOST_QUOTED - 3) // 2
        text = f"{text[:half]} … {text[-half:]}"
    return text
