"""The calibration table, `NAME.calib.json`: one scale per observed tensor, tied to one graph.

The file is a JSON object of exactly three entries: `manifest` (kind `table`; parents by sha256),
`method`, and `tensors`, which maps each tensor's name to its range in the tensor's own units, with
the method that chose it and a summary of the values that calibration saw. The schema is
`docs/calib-table.schema.json`. Nothing is repaired: a file that says anything else is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.artifacts import Manifest, read_json, write_json
from edgeattn.errors import ArtifactError, TableError
from edgeattn.graph.files import graph_sha256
from edgeattn.graph.int8 import INT8_MAX, is_quant_scale, quant_scale_from_amax

# The method of ranges that no calibration of ours found.
IMPORTED = "imported"

_HINT = "calibrate the graph again"

# Of what was observed, the entries that not every method knows.
_OPTIONAL = {"count", "clipped_percent", "percentiles", "channel_amax"}


@dataclass(frozen=True)
class ValueSummary:
    """What calibration saw of a tensor, all samples together.

    Attributes:
        amax: Largest magnitude.
        count: Number of values; `None` if they were reduced before they could be counted.
        clipped_percent: Percent of the values that the chosen range clips; `None` if not counted.
        percentiles: Magnitude that so many percent of the values do not exceed, to one bin of the
            histogram, by the percent as text: `{"50": 0.3, "99.9": 4.1}`.
        channel_amax: Largest magnitude of each channel, of tensors whose channels can be balanced
            with the weights that read them.
    """

    amax: float
    count: int | None = None
    clipped_percent: float | None = None
    percentiles: Mapping[str, float] = field(default_factory=dict)
    channel_amax: tuple[float, ...] = ()


@dataclass(frozen=True)
class TensorRange:
    """How one tensor is quantized.

    Attributes:
        amax: Magnitude that becomes 127.
        quant_scale: Real value of one integer step; exact in float32.
        method: How `amax` was chosen from the values; `imported` if another tool did.
        observed: The values it was chosen from; `None` if they are not known.
    """

    amax: float
    quant_scale: float
    method: str
    observed: ValueSummary | None = None

    @classmethod
    def from_amax(
        cls, amax: float, method: str, observed: ValueSummary | None = None
    ) -> TensorRange:
        """Derive the symmetric INT8 scale."""
        return cls(amax, float(quant_scale_from_amax(amax)), method, observed)

    @classmethod
    def from_quant_scale(cls, quant_scale: float) -> TensorRange:
        """Keep the scale that another tool found; `127 * quant_scale` becomes 127.

        Raises:
            ValueError: If it is no normal, positive float32 whose range is finite too.
        """
        amax = INT8_MAX * float(quant_scale)
        if not (quant_scale >= np.finfo(np.float32).tiny and is_quant_scale(amax)):
            raise ValueError(f"not a scale of a finite range: {quant_scale}")
        return cls(float(np.float32(amax)), float(np.float32(quant_scale)), IMPORTED)

    def to_dict(self) -> dict[str, Any]:
        """Turn the range into plain JSON values, without what is not known."""
        values = asdict(self)
        if self.observed is None:
            del values["observed"]
        else:
            known = values["observed"].items()
            values["observed"] = {key: value for key, value in known if value not in (None, {}, ())}
        return values


@dataclass(frozen=True)
class CalibTable:
    """What calibration found.

    Attributes:
        method: How the scales were asked to be chosen; `imported` if another tool did.
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

    @property
    def channel_amax(self) -> dict[str, NDArray[np.float32]]:
        """Largest magnitude of each channel, of the tensors of which it was observed."""
        return {
            name: np.array(entry.observed.channel_amax, np.float32)
            for name, entry in self.tensors.items()
            if entry.observed and entry.observed.channel_amax
        }

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
                "tensors": {name: entry.to_dict() for name, entry in self.tensors.items()},
            },
        )
        return path

    @classmethod
    def load(cls, path: Path | str) -> CalibTable:
        """Read a table.

        Raises:
            TableError: If the file is missing, truncated, of another format version, or holds
                anything but consistent ranges of distinct tensors.
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
        if not isinstance(values["tensors"], dict):
            raise TableError(f"{path} does not map tensors to their ranges", _HINT)
        tensors = {
            name: _read_range(entry, f"the entry {name} of {path}")
            for name, entry in values["tensors"].items()
        }
        return cls(_read_method(values["method"], str(path)), tensors, manifest)

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
    _check_keys(entry, {"amax", "quant_scale", "method"}, what, {"observed"})
    amax = _read_magnitude(entry, "amax", what)
    quant_scale = _read_number(entry, "quant_scale", what, is_quant_scale, "a positive float32")
    method = _read_method(entry["method"], what)
    expected = float(quant_scale_from_amax(amax))
    if abs(quant_scale - expected) > 2**-22 * expected:  # a scale found elsewhere came first
        raise TableError(
            f"quant_scale in {what} is {quant_scale}; expected {expected}, amax / {INT8_MAX}",
            "do not edit tables by hand; " + _HINT,
        )
    observed = _read_summary(entry["observed"], what) if "observed" in entry else None
    if observed and observed.clipped_percent and observed.amax <= amax:
        raise TableError(
            f"{what} clips {observed.clipped_percent} % of the values, but none is above its amax",
            _HINT,
        )
    return TensorRange(amax, quant_scale, method, observed)


def _read_summary(values: Any, entry: str) -> ValueSummary:
    what = f"what was observed for {entry}"
    _check_keys(values, {"amax"}, what, _OPTIONAL)
    amax = _read_magnitude(values, "amax", what)
    count = clipped = None
    if "count" in values:
        count = values["count"]
        if type(count) is not int or count < 1:
            raise TableError(f"count in {what} is {json.dumps(count)}; expected at least 1", _HINT)
    if "clipped_percent" in values:
        clipped = _read_number(
            values, "clipped_percent", what, lambda value: 0 <= value <= 100, "0 to 100"
        )
    percentiles = _read_percentiles(values, amax, what)
    return ValueSummary(amax, count, clipped, percentiles, _read_channels(values, amax, what))


def _read_percentiles(values: Mapping[str, Any], amax: float, what: str) -> dict[str, float]:
    entries = values.get("percentiles", {})
    if not isinstance(entries, dict) or not all(map(_is_percent, entries)):
        raise TableError(
            f"percentiles in {what} is {json.dumps(entries)}; expected magnitudes by percent", _HINT
        )
    read = {key: _read_magnitude(entries, key, f"percentiles in {what}") for key in entries}
    ordered = [read[key] for key in sorted(read, key=float)]
    if ordered != sorted(ordered) or any(value > amax for value in ordered):
        raise TableError(
            f"percentiles in {what} do not rise to at most its amax, {amax}: {json.dumps(read)}",
            _HINT,
        )
    return read


def _read_channels(values: Mapping[str, Any], amax: float, what: str) -> tuple[float, ...]:
    entries = values.get("channel_amax", [])
    if not isinstance(entries, list):
        raise TableError(f"channel_amax in {what} is {json.dumps(entries)}; expected a list", _HINT)
    by_channel = dict(enumerate(entries))
    where = f"channel_amax in {what}"
    read = tuple(_read_magnitude(by_channel, channel, where) for channel in by_channel)
    if read and max(read) != amax:
        raise TableError(
            f"the largest of channel_amax in {what} is {max(read)}; expected its amax, {amax}",
            _HINT,
        )
    return read


def _is_percent(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,3}(\.\d+)?", text)) and 0 < float(text) <= 100


def _read_method(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise TableError(f"method in {what} is {json.dumps(value)}; expected a name", _HINT)
    return value


def _read_magnitude(values: Mapping[Any, Any], key: str | int, what: str) -> float:
    return _read_number(
        values, key, what, lambda value: value == 0 or is_quant_scale(value), "a finite magnitude"
    )


def _read_number(
    values: Mapping[Any, Any],
    key: str | int,
    what: str,
    fits: Callable[[float], bool],
    expected: str,
) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TableError(f"{key} in {what} is {json.dumps(value)}; expected a number", _HINT)
    if not fits(value):
        raise TableError(f"{key} in {what} is {value}; expected {expected}", _HINT)
    return float(value)


def _check_keys(
    values: Any, required: set[str], what: str, optional: frozenset[str] | set[str] = frozenset()
) -> None:
    if not isinstance(values, dict) or not required <= set(values) <= required | optional:
        found = ", ".join(sorted(values)) if isinstance(values, dict) else type(values).__name__
        more = f", and perhaps {', '.join(sorted(optional))}" if optional else ""
        raise TableError(
            f"{what} holds {found}; expected {', '.join(sorted(required))}{more}", _HINT
        )
