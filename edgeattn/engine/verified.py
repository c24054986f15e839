"""Refuse an engine that fails a check of `edgeattn.engine.verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeattn.engine.base import Engine
from edgeattn.engine.verify import Progress, verify_engine
from edgeattn.engine.verify_queries import Shapes
from edgeattn.errors import BuildError


def require_verified(
    engine: Engine,
    graph: Path,
    *,
    shapes: tuple[Shapes, ...] = (),
    without_graph: Engine | None = None,
    second_build: Engine | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Check an engine before it is put in place.

    Args:
        engine: The engine.
        graph: The typed graph that it was built from.
        shapes: As `verify_engine` takes them.
        without_graph: As `verify_engine`.
        second_build: As `verify_engine`.
        progress: As `verify_engine`.

    Returns:
        What the checks found, as JSON values for the manifest.

    Raises:
        BuildError: If a check fails.
    """
    checks = verify_engine(
        engine,
        graph,
        shapes=shapes,
        without_graph=without_graph,
        second_build=second_build,
        progress=progress,
    )
    failures = [f"{check.name}: {check.detail}" for check in checks if check.verdict == "failed"]
    if failures:
        raise BuildError(
            f"the engine fails {len(failures)} of {len(checks)} checks: {'; '.join(failures)}",
            "it was not written; without --verify it would be",
        )
    return [check.to_dict() for check in checks]
