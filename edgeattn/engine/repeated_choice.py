"""A choice of what to fuse that remembers what it chose, so that a build can be repeated anywhere.

What is predicted for a GPU is not to be predicted once more when the graph of an engine is needed
again: the machine may be another one by then.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeattn.graph.fusion.found import GlobalChoice, GlobalDecision, GraphType
from edgeattn.spec import AttentionSpec

Tokens = tuple[int, int, int]


class RememberedChoice:
    """A choice, and what came of it; itself one that `fuse_window_attention` takes.

    Args:
        choice: What decides.

    Attributes:
        made: Whether an attention was taken, by all that the choice was told of it.
    """

    def __init__(self, choice: GlobalChoice) -> None:
        self._choice = choice
        self.made: dict[str, bool] = {}

    def __call__(
        self, spec: AttentionSpec, tokens: Tokens | None, graph_type: GraphType
    ) -> GlobalDecision:
        """Decide on one attention."""
        decision = self._choice(spec, tokens, graph_type)
        self.made[_told(spec, tokens, graph_type)] = decision.takes
        return decision


def repeated_choice(made: Mapping[str, bool]) -> GlobalChoice:
    """Decide as a choice did that was remembered; what it was not asked about is left."""

    def choose(spec: AttentionSpec, tokens: Tokens | None, graph_type: GraphType) -> GlobalDecision:
        takes = made.get(_told(spec, tokens, graph_type), False)
        return GlobalDecision(takes, "as it was decided when the engine was built")

    return choose


def _told(spec: AttentionSpec, tokens: Tokens | None, graph_type: GraphType) -> str:
    return f"{spec} at {tokens} in {graph_type}"
