"""The files that an engine was made from, found again by their hashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import Manifest, sha256_of_file
from edgeattn.errors import ArtifactError
from edgeattn.graph.files import graph_sha256


@dataclass(frozen=True)
class Sources:
    """What an engine was made from.

    Attributes:
        graph: The ONNX file.
        table: The calibration table that it was quantized with on the way; `None` without one.
    """

    graph: Path
    table: Path | None


def find_sources(engine: Path, manifest: Manifest, folder: Path | None = None) -> Sources:
    """Find the very files that an engine was made from, beside it or in a folder.

    Args:
        engine: The engine.
        manifest: Its manifest, which names them.
        folder: Where to look besides.

    Raises:
        ArtifactError: If the manifest names no graph, or a file is missing or another one.
        GraphError: If a graph of the name is not a whole ONNX graph.
    """
    folders = [engine.absolute().parent, *([folder] if folder is not None else [])]
    if "graph" not in manifest.parents:
        raise ArtifactError(
            f"the manifest of {engine} does not name the graph that it was built from",
            "build the engine again",
        )
    table = None
    if "table" in manifest.parents:
        table = _find(engine, manifest, "table", folders, sha256_of_file)
    return Sources(_find(engine, manifest, "graph", folders, graph_sha256), table)


def _find(
    engine: Path,
    manifest: Manifest,
    role: str,
    folders: Sequence[Path],
    hash_of: Callable[[Path], str],
) -> Path:
    parent = manifest.parents[role]
    # Its name alone: a manifest comes from outside, and names no place.
    candidates = [folder / Path(parent.file).name for folder in folders]
    there = [candidate for candidate in candidates if candidate.is_file()]
    for candidate in there:
        if hash_of(candidate) == parent.sha256:
            return candidate
    what = f"the {role} {parent.file} that {engine} was built from"
    if there:
        raise ArtifactError(
            f"{there[0]} is not {what}: their hashes differ",
            f"put the {role} of that build there, or build the engine again from this one",
        )
    raise ArtifactError(
        f"{what} is not in {' or '.join(map(str, folders))}",
        f"put it beside the engine, or name the folder that holds it; its sha256 begins with "
        f"{parent.sha256[:12]}",
    )
