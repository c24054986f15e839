"""What repeated builds of one engine were like, and which of them was kept."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeattn.errors import ArtifactError
from edgeattn.profiling.kernel_changes import KernelChange
from edgeattn.profiling.stats import LatencyStats

Role = Literal["present", "again", "build"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class BuildRow:
    """One engine of several that come from the same graph and options.

    Attributes:
        role: `present`, the engine that was there; `again`, the same file loaded a second time;
            `build`, a new one.
        number: Of a build, from 1 on; else 0.
        sha256: Of the engine file.
        bytes: Its size.
        latency: Of its queries.
        ratio: Its median over that of the present engine, measured side by side.
        ratio_interval: Bounds of the ratio with 95 % confidence; `None` for the present engine, and
            for few queries.
        kept: Whether it is the engine that is there now.
        build_seconds: How long its build took; `None` for what was there.
        layers: How many layers it has; `None` if it does not tell.
        differing: How many layers differ from the present engine's, see `kernel_changes`; `None`
            if one of the two does not tell.
        differences: The first of those.
    """

    role: Role
    number: int
    sha256: str
    bytes: int
    latency: LatencyStats
    ratio: float
    ratio_interval: Interval | None
    kept: bool = False
    build_seconds: float | None = None
    layers: int | None = None
    differing: int | None = None
    differences: tuple[KernelChange, ...] = ()

    @classmethod
    def from_dict(cls, values: Any) -> BuildRow:
        """Read a row back from the values of `RepeatedBuilds`."""
        return cls(
            **values
            | {
                "latency": LatencyStats.from_dict(values["latency"]),
                "ratio_interval": _interval(values["ratio_interval"]),
                "differences": tuple(KernelChange(**each) for each in values["differences"]),
            }
        )


@dataclass(frozen=True)
class Confirmation:
    """The fastest build, measured once more: that it was the fastest of several favoured it.

    Attributes:
        ratio: Its median over that of the engine that was there.
        ratio_interval: Bounds of the ratio with 95 % confidence; `None` for few queries.
    """

    ratio: float
    ratio_interval: Interval | None


@dataclass(frozen=True)
class RepeatedBuilds:
    """Builds of one engine, measured side by side.

    Attributes:
        target: What the engine runs on.
        mode: What the latencies hold.
        inputs: Shapes of the inputs, by name.
        rows: The engine that was there, the same again, and the builds in their order.
        spread_percent: By how much the slowest median is above the fastest, of the engine that was
            there and the builds.
        noise_percent: By how much the medians of the same engine loaded twice differ.
        identical: Whether all builds have the bytes of the engine that was there.
        confirmed: The fastest build measured once more; `None` if none seemed faster.
        sentences: What that means.
    """

    target: str
    mode: str
    inputs: dict[str, tuple[int, ...]]
    rows: tuple[BuildRow, ...]
    spread_percent: float
    noise_percent: float
    identical: bool
    confirmed: Confirmation | None
    sentences: tuple[str, ...]

    @property
    def kept(self) -> BuildRow:
        """The engine that is there now."""
        return next(row for row in self.rows if row.kept)

    @property
    def replaced(self) -> bool:
        """Whether a build took the place of the engine that was there."""
        return self.kept.role == "build"

    def to_dict(self) -> dict[str, Any]:
        """Turn the record into JSON values."""
        return asdict(self) | {"replaced": self.replaced}

    @classmethod
    def from_dict(cls, values: Any) -> RepeatedBuilds:
        """Read a record back.

        Raises:
            ArtifactError: If it is not what `to_dict` gives.
        """
        try:
            given = {name: value for name, value in values.items() if name != "replaced"}
            confirmed = given["confirmed"]
            if confirmed is not None:
                interval = _interval(confirmed["ratio_interval"])
                confirmed = Confirmation(confirmed["ratio"], interval)
            return cls(
                **given
                | {
                    "inputs": {name: tuple(shape) for name, shape in given["inputs"].items()},
                    "rows": tuple(map(BuildRow.from_dict, given["rows"])),
                    "confirmed": confirmed,
                    "sentences": tuple(given["sentences"]),
                }
            )
        except (KeyError, TypeError, AttributeError, ValueError) as err:
            raise ArtifactError(f"the record of repeated builds is malformed: {err!r}") from err


def _interval(values: Any) -> Interval | None:
    if values is None:
        return None
    low, high = values
    return float(low), float(high)
