"""The scales that TensorRT's own calibrator found, kept for the next build of the same graph.

TensorRT writes a text of scales (`edgeattn.calibration.trt_cache`) and takes any such text back,
whatever it was made of. Here a manifest beside the file ties it to graph, data, shapes, method and
version; scales of anything else are not handed out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeattn.artifacts import (
    Manifest,
    Parent,
    atomic_artifact,
    check_writable,
    manifest_path,
    read_manifest,
)
from edgeattn.calibration.data import Batches
from edgeattn.errors import ArtifactError

_log = logging.getLogger(__name__)


class CalibratorCache:
    """One file of TensorRT's scales, and what they are the scales of.

    Args:
        path: The file; its manifest stands beside it.
        graph: Name and hash of what TensorRT parses.
        options: What else the scales depend on, as JSON values.
        open_data: Opens the data anew, to be hashed.

    Raises:
        ArtifactError: If the folder is not writable.
    """

    def __init__(
        self,
        path: Path,
        graph: Parent,
        options: Mapping[str, Any],
        open_data: Callable[[], Batches],
    ) -> None:
        check_writable(path)
        self._path = path
        self._graph = graph
        self._options = dict(options)
        self._open_data = open_data

    def load(self) -> bytes | None:
        """Read the scales if they are those of this graph, data and options.

        The data is read once for its hash, unless something else differs already.

        Returns:
            What TensorRT wrote; `None` if there is nothing yet or it belongs to something else,
            which is logged.

        Raises:
            ArtifactError: If the file is another tool's, truncated or replaced.
            DataError: If the data cannot be read.
        """
        if not self._path.exists():
            return None
        if not manifest_path(self._path).exists():
            raise ArtifactError(
                f"{self._path} is not a cache that edgeattn wrote: there is no "
                f"{manifest_path(self._path).name} beside it",
                "give another file; edgeattn calibrate --from-cache imports one of another tool",
            )
        manifest = read_manifest(self._path)
        if manifest.kind != "trt_calib_cache":
            raise ArtifactError(
                f"{self._path} is of the kind {manifest.kind}; expected a calibration cache",
                "give another file",
            )
        other = self._difference(manifest)
        if other:
            _log.warning("%s was kept for another %s: calibrating again", self._path, other)
            return None
        return self._path.read_bytes()

    def save(self, content: bytes, batches: Batches) -> None:
        """Write the scales and their manifest, together and atomically.

        Args:
            content: What TensorRT wrote.
            batches: The data it was made from, read to its end.

        Raises:
            ArtifactError: If the folder is not writable.
        """
        manifest = Manifest(
            kind="trt_calib_cache",
            parents={"graph": self._graph, "data": Parent(batches.label, batches.sha256)},
            options=self._options,
            report={
                "samples": batches.samples,
                "left_out": batches.left_out,
                "skipped": batches.skipped,
            },
        )
        with atomic_artifact(self._path, manifest) as (file,):
            file.write_bytes(content)

    def _difference(self, manifest: Manifest) -> str:
        """Name the first thing that the kept scales do not share with those wanted."""
        hashes = {role: parent.sha256 for role, parent in manifest.parents.items()}
        if hashes.get("graph") != self._graph.sha256:
            return "graph"
        for name, value in self._options.items():
            if manifest.options.get(name) != value:
                return f"{name} ({manifest.options.get(name)}, now {value})"
        batches = self._open_data()
        for _ in batches:
            pass
        return "set of data" if hashes.get("data") != batches.sha256 else ""
