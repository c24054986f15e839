"""One thing that speaks against a graph on a board, or is worth knowing before it gets there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")  # worst first


@dataclass(frozen=True)
class GraphFinding:
    """One finding.

    Attributes:
        level: `error`, no engine comes of it, or none that runs; `warning`, the engine is not what
            the graph asks for, or may fail; `note`, worth knowing.
        topic: The question that found it.
        node: Label of the node, or name of the tensor; empty if it is the graph as a whole.
        reason: What was found, with its figures.
        fix: What to do about it; empty if there is nothing to do.
    """

    level: Level
    topic: str
    node: str
    reason: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Turn the finding into JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" if self.node else self.reason
