"""The board beside a measurement: at rest before it, while it runs, and what follows from that."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.board.energy import EnergyPerQuery, energy_per_query, missing_energy
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.sampler import BoardSampler
from edgeattn.profiling.board.verdict import Device, Verdict, verdict
from edgeattn.profiling.measurement import Measurement

IDLE_S = 1.0


@dataclass(frozen=True)
class BoardState:
    """What the board did during a measurement.

    Attributes:
        trace: What its sensors said, from before the measurement to after it.
        verdict: Whether it kept its clocks.
        energy: What a query cost; `None` if the sensors do not tell.
        no_energy: Why they do not; empty if they do.
    """

    trace: BoardTrace
    verdict: Verdict
    energy: EnergyPerQuery | None
    no_energy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Turn the state into JSON values, under the keys that reports have for it."""
        return {
            "board": self.trace.to_dict(),
            "verdict": self.verdict.to_dict(),
            "energy": self.energy.to_dict() if self.energy else None,
            "no_energy": self.no_energy,
        }

    @classmethod
    def from_dict(cls, values: Any) -> BoardState:
        """Read a state back.

        Args:
            values: Of a report that has them.

        Raises:
            ArtifactError: If the values are not what `to_dict` gives.
        """
        try:
            word, energy = values["verdict"], values["energy"]
            return cls(
                BoardTrace.from_dict(values["board"]),
                Verdict(word["word"], tuple(word["reasons"])),
                EnergyPerQuery(**energy) if energy else None,
                values["no_energy"],
            )
        except (KeyError, TypeError) as err:
            raise ArtifactError(f"the state of the board is malformed: {err!r}") from err


class BoardWatch:
    """Samples the board for the length of a block.

        with BoardWatch("gpu") as watch:
            measurement = measure(query)
        state = watch.state(measurement)

    Where there are power rails, entering the block lets the board rest first: what it draws then is
    no part of a query's energy.

    Args:
        device: What does the work.
        idle_s: How long to rest; 0 for not at all, energy then being that of the whole board.
        root: Where `/sys` and `/proc` stand.

    Raises:
        DataError: If the time is negative.
    """

    def __init__(self, device: Device, idle_s: float = IDLE_S, root: Path = Path("/")) -> None:
        if not 0 <= idle_s < float("inf"):
            raise DataError(f"idle_s is {idle_s}; expected a finite time of at least 0")
        self._device: Device = device
        self._idle_s = idle_s
        self._sampler = BoardSampler(root=root)
        self._rested_ns = 0

    def __enter__(self) -> BoardWatch:
        try:
            self._sampler.start()
            if self._idle_s and self._sampler.seen().total_rail:
                time.sleep(self._idle_s)
                self._rested_ns = time.perf_counter_ns()
        except BaseException:  # Ctrl-C: a block that was not entered is not left either
            self._sampler.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sampler.stop()

    def state(self, measurement: Measurement) -> BoardState:
        """Say what the board did while queries were measured.

        Args:
            measurement: Made within the block, which has ended.
        """
        trace = self._sampler.stop()
        start_ns, end_ns = measurement.window_ns
        rest = None
        if self._rested_ns:
            rest = replace(trace, samples=tuple(trace.window(0, self._rested_ns)))
        asked = (trace, start_ns, end_ns, len(measurement.times), rest)
        return BoardState(
            trace,
            verdict(trace, start_ns, end_ns, self._device),
            energy_per_query(*asked),
            missing_energy(*asked),
        )
