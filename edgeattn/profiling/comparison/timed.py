"""Engines timed in turns: one run for all, so that drift of the machine hits all alike."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeattn.engine.base import Engine
from edgeattn.errors import EdgeAttnError
from edgeattn.profiling.board.verdict import Device
from edgeattn.profiling.board.watch import BoardWatch
from edgeattn.profiling.comparison.ratio import Times
from edgeattn.profiling.comparison.sides import Side
from edgeattn.profiling.diagnosis import diagnose, diagnose_board, diagnose_machine, diagnose_mode
from edgeattn.profiling.environment import collect_environment
from edgeattn.profiling.measure import measure_interleaved
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import Mode, has_device
from edgeattn.profiling.profile import engine_parent
from edgeattn.profiling.report import PARTS
from edgeattn.profiling.stats import LatencyStats

_NO_ENERGY = "engines took turns, so that the power is of all"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class LoadedSide:
    """An engine that is a side of a comparison.

    Attributes:
        letter: What the side is called.
        name: Of its file; empty if it was given loaded.
        engine: The engine.
        mode: How to measure it.
    """

    letter: str
    name: str
    engine: Engine
    mode: Mode

    def untimed(self) -> Side:
        """Describe the side without a latency."""
        parents = engine_parent(self.engine)
        first = next((parent.file for parent in parents.values()), "an engine")
        return Side(
            letter=self.letter,
            name=self.name or first,
            parents=parents,
            target=self.engine.manifest.target,
            is_report=False,
            mode=self.mode.sentence,
            settings=self.engine.settings,
            inputs={},
        )


def timed_sides(
    sides: Sequence[LoadedSide], batches: Sequence[Arrays], loop: Mapping[str, Any], board: bool
) -> list[Side]:
    """Measure the latencies of engines in turns.

    The energy of a query is not told: what the board draws is that of all engines together.

    Args:
        sides: The engines.
        batches: For each the arrays of a query.
        loop: `iterations`, `duration_s` and `warm_up_ms` of the measurement.
        board: Watch clocks and temperatures meanwhile, from a process of its own.

    Raises:
        EngineError: If an engine fails, or is loaded for something else than its mode measures.
    """
    queries = {}
    for side, batch in zip(sides, batches, strict=True):
        side.mode.check(side.engine)
        queries[side.letter] = side.mode.query(side.engine, batch)
    environment = collect_environment()
    devices = {side.letter: _device(side.engine) for side in sides}
    with contextlib.ExitStack() as stack:
        watches = {
            device: stack.enter_context(BoardWatch(device, idle_s=0))
            for device in (set(devices.values()) if board else ())
        }
        measured = measure_interleaved(queries, **loop)
    found = []
    for side, batch in zip(sides, batches, strict=True):
        measurement = side.mode.read(measured[side.letter])
        stats = _statistics(side, measurement)
        watch = watches.get(devices[side.letter])
        state = None
        if watch is not None:
            state = replace(watch.state(measurement), energy=None, no_energy=_NO_ENERGY)
        latencies = tuple(measurement.latency_ms)
        found.append(
            replace(
                side.untimed(),
                settings=side.engine.settings,
                inputs={name: array.shape for name, array in batch.items()},
                latency=stats["latency"],
                times=Times(latencies, tuple(t.start_enqueue_ns for t in measurement.times)),
                throughput_qps=measurement.throughput_qps,
                environment=environment,
                board=state,
                warnings=(
                    *diagnose(measurement, stats, side.engine.settings),
                    *diagnose_mode(side.mode, side.engine.settings),
                    *diagnose_machine(environment),
                    *(diagnose_board(state) if state else ()),
                ),
            )
        )
    return found


def with_layers(side: Side, loaded: LoadedSide, batch: Arrays) -> Side:
    """Measure the layers of an engine; where that fails, say so and keep the rest."""
    from edgeattn.profiling.layers.engine_layers import engine_layers

    # Of whole calls, the latency is none that layers could add up to.
    whole_ms = side.latency.p50_ms if side.latency and not loaded.mode.whole_call else None
    try:
        found = engine_layers(loaded.engine, batch, whole_ms, measure_ceiling=False)
    except EdgeAttnError as err:
        warning = f"the layers could not be measured: {err.message}"
        return replace(side, warnings=(*side.warnings, warning))
    return replace(side, layers=found)


def _device(engine: Engine) -> Device:
    return "gpu" if has_device(engine.manifest.target) else "cpu"


def _statistics(side: LoadedSide, measurement: Measurement) -> dict[str, LatencyStats]:
    has_parts = has_device(side.engine.manifest.target) and not side.mode.whole_call
    return {
        name: LatencyStats.from_samples(getattr(measurement, f"{name}_ms"), side.mode.percentiles)
        for name in (PARTS if has_parts else PARTS[:1])
    }
