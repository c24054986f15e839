"""Recorded messages of TensorRT: excerpts of public logs, each with its source.

A line is `[E] text` with the letter that TensorRT's own tools print for the severity; lines without
one go on with the message before. `# source:` names where the lines after it were seen,
`# composed:` what they were put together from.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgeattn.engine.tensorrt.log import CapturedLog, LogLine

LOGS = Path(__file__).parent / "fixtures" / "tensorrt" / "logs"

_SEVERITIES = {
    "F": "internal_error",
    "E": "error",
    "W": "warning",
    "I": "info",
    "V": "verbose",
}


def recorded(name: str) -> list[LogLine]:
    """Read the messages of a file, a second apart."""
    messages: list[tuple[str, str]] = []
    for line in (LOGS / f"{name}.log").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if start := re.match(r"\[([FEWIV])\] ", line):
            messages.append((_SEVERITIES[start[1]], line[start.end() :]))
        else:
            severity, text = messages.pop()
            messages.append((severity, f"{text}\n{line}"))
    return [LogLine(float(i), severity, text) for i, (severity, text) in enumerate(messages)]


def replay(*names: str) -> CapturedLog:
    """Put the messages of files into one log."""
    log = CapturedLog()
    for name in names:
        for line in recorded(name):
            log.add(line.severity, line.text)
    return log
