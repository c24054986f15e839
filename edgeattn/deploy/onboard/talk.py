"""What the board says: one JSON object a line, marked, so that nobody's login message is an answer.

References:
    RFC 7464 begins each JSON text with the character RS for the same reason.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MARK = "\x1e"


class RefusedError(Exception):
    """What cannot be done on the board, for the user to read.

    Args:
        message: One sentence.
        hint: What to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def say(**values: Any) -> None:
    """Send one message."""
    sys.stdout.write(f"{MARK}{json.dumps(values)}\n")
    sys.stdout.flush()


def read_message(line: str) -> dict[str, Any] | None:
    """Read one line; `None` if it is not a message."""
    if not line.startswith(MARK):
        return None
    try:
        values = json.loads(line[len(MARK) :])
    except ValueError:  # cut off in the middle
        return None
    return values if isinstance(values, dict) else None
