"""What an examination says: one finding, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`; `note`, worth knowing; `warning`, it costs speed or may fail; `error`, it
            cannot work.
        topic: What was looked at.
        text: What was found, with its figures.
        fix: What to do about it; empty if there is nothing to do.
    """

    level: Level
    topic: str
    text: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Turn the finding into JSON values."""
        return asdict(self)
