"""What a measurement leaves: latency, with everything needed to believe it, as one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgeattn.artifacts import Manifest, read_json
from edgeattn.errors import ArtifactError
from edgeattn.profiling.board.watch import BoardState
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers.rows import LayerProfile
from edgeattn.profiling.repeated_builds import RepeatedBuilds
from edgeattn.profiling.stats import LatencyStats
from edgeattn.profiling.sustained import Sustained

_T = TypeVar("_T")


@dataclass(frozen=True)
class LatencyReport:
    """Latency of an engine, how it was measured, and on what.

    Attributes:
        manifest: What was measured: the engine by its hash, the options of the measurement.
        mode: Which copies and waits the latency holds: the name of a mode, a colon, its meaning.
        settings: Settings of the engine that move its latency, and the queries in flight.
        inputs: Shapes of the inputs, by name.
        latency: Host-to-device copy, compute and device-to-host copy of each query.
        h2d: The first part alone.
        compute: The second.
        d2h: The third.
        enqueue: Host time to enqueue each query; no part of the latency of a device.
        throughput_qps: Queries per second of wall time.
        environment: The machine before the measurement.
        environment_after: The machine after it.
        warnings: What makes the figures less than trustworthy, one sentence each.
        export_times: One entry per query, with the keys of trtexec's `--exportTimes`.
        end_to_end: What the caller waited for each query, from the call to its return; `None` in
            reports written before it was measured.
        settled: Whether the spread of the latencies settled; `None` if that was not asked for.
        window_ns: When the first timed query was enqueued and the last one ended, of
            `time.perf_counter_ns`: the clock of board traces.
        layers: Where the time of a query goes; `None` if that was not measured.
        board: What the board did meanwhile, what to think of it and what a query cost; `None` if
            it was not watched.
        locked_clocks: What was locked for the measurement, in words.
        sustained: How it went on over minutes; `None` if it did not.
        builds: How builds of the same engine differ; `None` if it was not built again.
        build_report: What the engine's manifest says of its build; empty if that is nothing.
    """

    manifest: Manifest
    mode: str
    settings: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    latency: LatencyStats
    h2d: LatencyStats
    compute: LatencyStats
    d2h: LatencyStats
    enqueue: LatencyStats
    throughput_qps: float
    environment: Environment
    environment_after: Environment
    warnings: tuple[str, ...]
    export_times: tuple[dict[str, float], ...]
    end_to_end: LatencyStats | None = None
    settled: bool | None = None
    window_ns: tuple[int, int] | None = None
    layers: LayerProfile | None = None
    board: BoardState | None = None
    locked_clocks: tuple[str, ...] = ()
    sustained: Sustained | None = None
    builds: RepeatedBuilds | None = None
    build_report: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into JSON values.

        The queries stand under `exportTimes`, the layers under `exportProfile` too: the lists that
        trtexec writes. What was not measured is null.
        """
        board = self.board.to_dict() if self.board else dict.fromkeys(_BOARD)
        return {
            "manifest": self.manifest.to_dict(),
            "mode": self.mode,
            "settings": self.settings,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            **{name: getattr(self, name).to_dict() for name in PARTS},
            "end_to_end": self.end_to_end.to_dict() if self.end_to_end else None,
            "throughput_qps": self.throughput_qps,
            "settled": self.settled,
            "window_ns": list(self.window_ns) if self.window_ns else None,
            "environment": self.environment.to_dict(),
            "environment_after": self.environment_after.to_dict(),
            "warnings": list(self.warnings),
            **board,
            "locked_clocks": list(self.locked_clocks),
            "layers": self.layers.to_dict() if self.layers else None,
            "sustained": self.sustained.to_dict() if self.sustained else None,
            "builds": self.builds.to_dict() if self.builds else None,
            "build_report": self.build_report or None,
            "exportProfile": self.layers.export_profile() if self.layers else None,
            "exportTimes": list(self.export_times),
        }

    @classmethod
    def from_dict(cls, values: Any, source: str = "the report") -> LatencyReport:
        """Read a report back.

        Args:
            values: As `to_dict` gives them.
            source: File they come from, for the message.

        Raises:
            ArtifactError: If they are no report or of an unknown format version.
        """
        if not isinstance(values, dict):
            raise ArtifactError(f"{source} is not a latency report")
        manifest = Manifest.from_dict(values.get("manifest"), source)
        window_ns = values.get("window_ns")
        try:
            return cls(
                manifest=manifest,
                mode=values["mode"],
                settings=values["settings"],
                inputs={name: tuple(shape) for name, shape in values["inputs"].items()},
                **{name: LatencyStats.from_dict(values[name]) for name in PARTS},
                throughput_qps=values["throughput_qps"],
                environment=Environment.from_dict(values["environment"]),
                environment_after=Environment.from_dict(values["environment_after"]),
                warnings=tuple(values["warnings"]),
                export_times=tuple(values["exportTimes"]),
                end_to_end=_read(values, "end_to_end", LatencyStats.from_dict),
                settled=values.get("settled"),
                window_ns=(window_ns[0], window_ns[1]) if window_ns else None,
                layers=_read(values, "layers", LayerProfile.from_dict),
                board=BoardState.from_dict(values) if values.get("board") else None,
                locked_clocks=tuple(values.get("locked_clocks") or ()),
                sustained=_read(values, "sustained", Sustained.from_dict),
                builds=_read(values, "builds", RepeatedBuilds.from_dict),
                build_report=values.get("build_report") or {},
            )
        except ArtifactError as err:  # of a part, which does not know where it stands
            raise ArtifactError(f"{source} is a malformed latency report: {err.message}") from err
        except (KeyError, TypeError, AttributeError, IndexError) as err:
            raise ArtifactError(f"{source} is a malformed latency report: {err!r}") from err


PARTS = ("latency", "h2d", "compute", "d2h", "enqueue")
_BOARD = ("board", "verdict", "energy", "no_energy")


def _read(values: Mapping[str, Any], name: str, read: Callable[[Any], _T]) -> _T | None:
    """Read a part of a report that may not be there."""
    return None if values.get(name) is None else read(values[name])


def read_report(path: Path | str) -> LatencyReport:
    """Read a report that `profile` wrote.

    Raises:
        ArtifactError: If the file is missing, malformed or of an unknown format version.
    """
    path = Path(path)
    return LatencyReport.from_dict(read_json(path, "a latency report"), str(path))
