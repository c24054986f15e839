"""What is compared: an engine that is measured now, or the report of one that was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeattn.artifacts import Parent
from edgeattn.profiling.board.watch import BoardState
from edgeattn.profiling.comparison.ratio import Times
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers.rows import LayerProfile
from edgeattn.profiling.report import LatencyReport
from edgeattn.profiling.stats import LatencyStats

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Side:
    """One of what is compared.

    Attributes:
        letter: What it is called in words and tables: the reference is A.
        name: Of its file.
        parents: What it is by hash: its report, if there is one, and its engine.
        target: What the engine runs on.
        is_report: Whether it was measured before, and is no engine here.
        mode: What the latency holds: the name of a mode, a colon, its meaning.
        settings: Settings of the engine that move its latency.
        inputs: Shapes of the query that was timed, by its own input names; empty if none was.
        latency: Statistics of the latency; `None` if it was not measured.
        times: Those of the single queries; `None` likewise, and for a report without them.
        throughput_qps: Queries per second of wall time; `None` likewise.
        environment: The machine that it was measured on; `None` likewise.
        board: What its board did meanwhile; `None` if nobody watched.
        layers: Where the time of a query goes; `None` if that was not measured.
        warnings: What makes its figures less than trustworthy.
    """

    letter: str
    name: str
    parents: dict[str, Parent]
    target: str
    is_report: bool
    mode: str
    settings: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    latency: LatencyStats | None = None
    times: Times | None = None
    throughput_qps: float | None = None
    environment: Environment | None = None
    board: BoardState | None = None
    layers: LayerProfile | None = None
    warnings: tuple[str, ...] = ()

    @property
    def mode_name(self) -> str:
        """The mode without its meaning."""
        return self.mode.partition(":")[0]

    @property
    def sha256(self) -> str:
        """Hash of the engine, or of what it was made from; empty if nobody knows."""
        of = [parent for role, parent in self.parents.items() if role != "report"]
        return of[0].sha256 if of else ""

    @property
    def energy_mj(self) -> float | None:
        """Energy of a query above that of a board at rest; `None` if it is not known."""
        return self.board.energy.mj if self.board and self.board.energy else None

    def to_dict(self) -> dict[str, Any]:
        """Turn what the side is into JSON values, without times and layers."""
        return {
            "letter": self.letter,
            "name": self.name,
            "source": "report" if self.is_report else "engine",
            "sha256": self.sha256,
            "target": self.target,
            "mode": self.mode,
            "settings": self.settings,
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "machine": machine_name(self.environment),
            "power_mode": self.board.trace.power_mode if self.board else "",
            "verdict": self.board.verdict.to_dict() if self.board else None,
            "energy_mj": self.energy_mj,
            "throughput_qps": self.throughput_qps,
        }


def side_of_report(
    report: LatencyReport, letter: str, name: str, report_file: Parent | None
) -> Side:
    """Take a side from a report.

    Args:
        report: The report.
        letter: What the side is called.
        name: Of its file; what the report measured, if it is in memory only.
        report_file: The file by its hash, if there is one.
    """
    parents = {"report": report_file} if report_file else {}
    queries = report.export_times
    times = None
    if queries:
        times = Times(
            tuple(query["latencyMs"] for query in queries),
            tuple(round(1e6 * query["startEnqMs"]) for query in queries),
        )
    return Side(
        letter=letter,
        name=name,
        parents=parents | report.manifest.parents,
        target=report.manifest.target,
        is_report=True,
        mode=report.mode,
        settings=report.settings,
        inputs=report.inputs,
        latency=report.latency,
        times=times,
        throughput_qps=report.throughput_qps,
        environment=report.environment,
        board=report.board,
        layers=report.layers,
        warnings=report.warnings,
    )


def letters(count: int) -> Sequence[str]:
    """Call so many sides A, B, C and so on; after Z come A2 and B2."""
    rounds = range(-(-count // len(LETTERS)))
    return [f"{letter}{i + 1 if i else ''}" for i in rounds for letter in LETTERS][:count]


def machine_name(environment: Environment | None) -> str:
    """Say which machine it was; empty if it is not known."""
    if environment is None:
        return ""
    return ", ".join(filter(None, (environment.machine, environment.cpu_model)))
