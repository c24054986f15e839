"""What a board said of itself during a run: one sample, and the trace of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgeattn.errors import ArtifactError

Source = Literal["tegrastats", "sysfs", "nvml", "cpu", "none"]

_BY_NAME = ("clocks_mhz", "temperatures_c", "power_mw", "utilisation_percent")


@dataclass(frozen=True)
class BoardSample:
    """What the sensors said at one moment. A sensor that gave nothing is left out.

    Attributes:
        time_ns: Of `time.perf_counter_ns`, which on Linux is one clock for all processes.
        clocks_mhz: By domain: `gpu`, `emc` (memory), `cpu0`, `cpu1`, …
        temperatures_c: By thermal zone: `cpu`, `gpu`, `tj` (the hottest of the die), …
        power_mw: By rail: `VDD_IN`, `VDD_GPU_SOC`, …; a rail at rest can be a little negative,
            which is the offset of its sensor.
        utilisation_percent: By unit: `gpu`, `emc`, `cpu` (all of them) or `cpu0`, …
        memory_used_bytes: Memory in use: the machine's, with the source `nvml` the card's; `None`
            if it was not read.
        throttled: Why clocks were held down since the sample before: `over-current`,
            `under-voltage`, `thermal`, `power cap`, `hardware slowdown`.
    """

    time_ns: int
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    power_mw: Mapping[str, float] = field(default_factory=dict)
    utilisation_percent: Mapping[str, float] = field(default_factory=dict)
    memory_used_bytes: int | None = None
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoardTrace:
    """The samples of one run, in the order of time.

    Attributes:
        samples: What the sensors said.
        source: Where from: `sysfs` and `tegrastats` on a Jetson, `nvml` on a desktop GPU, `cpu` on
            a machine with neither; `none` if there was nothing to read.
        period_s: Time between samples that was asked for.
        board: Model of the board or machine; empty if it does not say.
        power_mode: Name of the nvpmodel mode, such as `MAXN`; empty if there is none.
        jetson_clocks: Whether the GPU's clock was locked, as by `jetson_clocks`, when the trace
            began; `None` if that could not be read.
        total_rail: What the power of the whole is read from: a rail, or a sum such as
            `VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0`; empty if the rails do not tell.
        problem: Why there is nothing, or less than there should be; empty if all went well.
    """

    samples: tuple[BoardSample, ...] = ()
    source: Source = "none"
    period_s: float = 0.0
    board: str = ""
    power_mode: str = ""
    jetson_clocks: bool | None = None
    total_rail: str = ""
    problem: str = ""

    def window(self, start_ns: int, end_ns: int) -> list[BoardSample]:
        """Give the samples taken from one time to another, both included."""
        return [sample for sample in self.samples if start_ns <= sample.time_ns <= end_ns]

    def to_dict(self) -> dict[str, Any]:
        """Turn the trace into JSON values, one list for each sensor: null where it was silent."""
        columns = {
            group: {
                name: [getattr(sample, group).get(name) for sample in self.samples]
                for name in _names(getattr(sample, group) for sample in self.samples)
            }
            for group in _BY_NAME
        }
        return {
            "source": self.source,
            "period_s": self.period_s,
            "board": self.board,
            "power_mode": self.power_mode,
            "jetson_clocks": self.jetson_clocks,
            "total_rail": self.total_rail,
            "problem": self.problem,
            "time_ns": [sample.time_ns for sample in self.samples],
            **columns,
            "memory_used_bytes": [sample.memory_used_bytes for sample in self.samples],
            "throttled": [list(sample.throttled) for sample in self.samples],
        }

    @classmethod
    def from_dict(cls, values: Any) -> BoardTrace:
        """Read a trace back.

        Raises:
            ArtifactError: If the values are not what `to_dict` gives.
        """
        try:
            if values["source"] not in get_args(Source):
                raise ValueError(f"there is no source {values['source']!r}")
            times = values["time_ns"]
            groups = {name: _rows(values[name], len(times)) for name in _BY_NAME}
            samples = tuple(
                BoardSample(
                    time_ns=time,
                    **{name: rows[i] for name, rows in groups.items()},
                    memory_used_bytes=memory,
                    throttled=tuple(reasons),
                )
                for i, (time, memory, reasons) in enumerate(
                    zip(times, values["memory_used_bytes"], values["throttled"], strict=True)
                )
            )
            plain = ("period_s", "board", "power_mode", "jetson_clocks", "total_rail", "problem")
            return cls(samples, values["source"], **{name: values[name] for name in plain})
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise ArtifactError(f"the board trace is malformed: {err!r}") from err


def _names(groups: Iterable[Mapping[str, float]]) -> list[str]:
    """List the names that occur, in the order of their first sample."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _rows(columns: Mapping[str, list[float | None]], count: int) -> list[dict[str, float]]:
    """Turn one list per sensor into one mapping per sample."""
    rows: list[dict[str, float]] = [{} for _ in range(count)]
    for name, column in columns.items():
        for row, value in zip(rows, column, strict=True):
            if value is not None:
                row[name] = value
    return rows
