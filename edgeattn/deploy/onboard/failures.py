"""Why a step's command failed, in one sentence, from its exit code and its last lines."""

from __future__ import annotations

import re
import signal

from edgeattn.deploy.onboard.talk import RefusedError

_ERROR = re.compile(r"^(?:Error|ERROR): (?P<text>.*)")
_HINT = re.compile(r"^hint: (?P<text>.*)")

# What others say at length, and what to do about it; {said} is the line of the error.
_KNOWN = (
    (
        r"ensurepip is not|No module named '?(?:ensurepip|venv)",
        "the board's Python cannot make environments",
        "on the board: sudo apt install python3-venv",
    ),
    (
        r"Failed to establish a new connection|Temporary failure in name resolution|"
        r"Network is unreachable|NameResolutionError|NewConnectionError",
        "pip reaches no network from the board: {said}",
        "give the packages along with --wheelhouse",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "the board's disk is full",
        "make room, or deploy to another disk with --folder",
    ),
    (
        r"cuda\.h: No such file",
        "pycuda could not be compiled, for CUDA's headers are missing on the board",
        "on the board: sudo apt install nvidia-jetpack, or at least cuda-toolkit",
    ),
    (
        r"Python\.h: No such file",
        "pycuda could not be compiled, for Python's headers are missing on the board",
        "on the board: sudo apt install python3-dev",
    ),
)


def explain(step: str, code: int, lines: list[str]) -> RefusedError:
    """Turn the end of a step into one sentence and a hint.

    Args:
        step: The step.
        code: Exit code of its command; negative if a signal ended it.
        lines: The last that it printed.
    """
    if code == -signal.SIGKILL:
        return RefusedError(
            f"the step {step} was killed, as the system does when memory runs out",
            "stop what else runs there, or add swap: edgeattn doctor USER@HOST tells how",
        )
    if code < 0:
        return RefusedError(f"the step {step} was ended by {signal.Signals(-code).name}")
    said, hint = _said(lines)
    for pattern, message, known_hint in _KNOWN:
        if any(re.search(pattern, line) for line in lines):
            text = message.format(said=said or "it said nothing")
            return RefusedError(f"the step {step} failed: {text}", known_hint)
    if said:
        return RefusedError(f"the step {step} failed: {said}", hint)
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return RefusedError(f"the step {step} failed with exit code {code}: {last}", hint)


def _said(lines: list[str]) -> tuple[str, str]:
    """Find the last error that is marked as one, and the hint after it."""
    hint = ""
    for line in reversed(lines):
        if found := _HINT.match(line):
            hint = hint or found["text"]
        elif found := _ERROR.match(line):
            return found["text"], hint
    return "", hint
