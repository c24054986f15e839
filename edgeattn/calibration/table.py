"""The calibration table, `NAME.calib.json`: one scale per observed tensor, tied to one graph.

The file is a JSON object of exactly three entries: `manifest` (kind `table`; parents `graph` and
`data` by sha256), `method`, and `tensors`, which maps each tensor's name to `{"amax",
"quant_scale"}` in the tensor's own units. Nothing is repaired: a file that says anything else is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, read_json, write_json
from edgeattn.errors import ArtifactError, TableError
from edgeattn.graph.files import graph_sha256
from edgeattn.graph.int8 import is_quant_scale, quant_scale_from_amax

_HINT = "calibrate the graph again"


@dataclass(frozen=True)
class TensorRange:
    """How one tensor is quantized.

    Attributes:
        amax: Magnitude that becomes 127.
        quant_scale: Real value of one integer step; exact in float32.
    """

    amax: float
    quant_scale: float

    @classmethod
    def from_amax(cls, amax: float) -> TensorRange:
        """Derive the symmetric INT8 scale."""
        return cls(amax, float(quant_scale_from_amax(amax)))


@dataclass(frozen=True)
class CalibTable:
    """What calibration found.

    Attributes:
        method: How the scales were chosen from the values.
        tensors: Range of each tensor by name, in the graph's order.
        manifest: What the table was made from, and how.
    """

    method: str
    tensors: Mapping[str, TensorRange]
    manifest: Manifest

    @property
    def quant_scales(self) -> dict[str, float]:
        """Real value of one integer step of each tensor."""
        return {name: entry.quant_scale for name, entry in self.tensors.items()}

    def save(self, path: Path | str) -> Path:
        """Write the table atomically.

        Raises:
            ArtifactError: If the folder is not writable.
        """
        path = Path(path)
        write_json(
            path,
            {
                "manifest": self.manifest.to_dict(),
                "method": self.method,
                "tensors": {name: asdict(entry) for name, entry in self.tensors.items()},
            },
        )
        return path

    @classmethod
    def load(cls, path: Path | str) -> CalibTable:
        """Read a table.

        Raises:
            TableError: If the file is missing, truncated, of another format version, or holds
                anything but positive finite scales of distinct tensors.
        """
        path = Path(path)
        try:
            values = read_json(path, "a calibration table")
            _check_keys(values, {"manifest", "method", "tensors"}, str(path))
            manifest = Manifest.from_dict(values["manifest"], str(path))
        except ArtifactError as err:
            raise TableError(err.message, err.hint) from err
        if manifest.kind != "table" or "graph" not in manifest.parents:
            raise TableError(f"{path} is not a calibration table of a graph", _HINT)
        if not isinstance(values["method"], str) or not isinstance(values["tensors"], dict):
            raise TableError(f"{path} does not name its method and tensors", _HINT)
        tensors = {
            name: _read_range(entry, f"the entry {name} of {path}")
            for name, entry in values["tensors"].items()
        }
        return cls(values["method"], tensors, manifest)

    def check_parent(self, graph: Path | str) -> None:
        """Refuse a graph other than the one that was calibrated, weights included.

        Raises:
            TableError: If the hashes differ.
            ArtifactError: If the graph is missing.
        """
        parent = self.manifest.parents["graph"]
        found = graph_sha256(graph)
        if parent.sha256 != found:
            raise TableError(
                f"the table belongs to another graph: it was made for {parent.file} with sha256 "
                f"{parent.sha256[:12]}, and {graph} has {found[:12]}",
                "calibrate this graph",
            )


def _read_range(entry: Any, what: str) -> TensorRange:
    _check_keys(entry, {"amax", "quant_scale"}, what)
    for key, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TableError(f"{key} in {what} is {json.dumps(value)}; expected a number", _HINT)
    amax, quant_scale = entry["amax"], entry["quant_scale"]
    if amax != 0 and not is_quant_scale(amax):
        raise TableError(f"amax in {what} is {amax}; expected a finite magnitude", _HINT)
    if not is_quant_scale(quant_scale):
        raise TableError(
            f"quant_scale in {what} is {quant_scale}; expected a positive float32", _HINT
        )
    return TensorRange(float(amax), float(quant_scale))


def _check_keys(values: Any, expected: set[str], what: str) -> None:
    if not isinstance(values, dict) or set(values) != expected:
        found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        raise TableError(f"{what} holds {found}; expected {', '.join(sorted(expected))}", _HINT)
