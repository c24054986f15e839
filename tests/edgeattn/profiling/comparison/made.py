"""Reports and sides to compare. Their times are made up; their forms are those of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeattn.artifacts import Manifest, Parent
from edgeattn.engine.base import QueryTimes
from edgeattn.graph.compare import compare_arrays
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.verdict import Verdict
from edgeattn.profiling.board.watch import BoardState
from edgeattn.profiling.compare import compare_many
from edgeattn.profiling.comparison.result import Comparisons
from edgeattn.profiling.comparison.sides import Side, side_of_report
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers.rows import LayerProfile, LayerRow, module_tree
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import DEVICE
from edgeattn.profiling.report import LatencyReport
from edgeattn.profiling.stats import LatencyStats

ENVIRONMENT = Environment(
    machine="Made-up board",
    cpu_model="ARMv8",
    cpu_features=(),
    cpu_architecture="aarch64",
    logical_cores=6,
    usable_cores=6,
    governor="performance",
    clock_mhz=None,
    max_clock_mhz=None,
    load_average=0.1,
    memory_total_bytes=None,
    memory_available_bytes=None,
    operating_system="Ubuntu 22.04.4 LTS",
    kernel="5.15.148-tegra",
)


def times(count: int, median_ms: float = 5.0, spread: float = 0.01, seed: int = 0) -> list[float]:
    """Draw latencies that follow one another without a memory."""
    return list(median_ms * np.random.default_rng(seed).lognormal(0, spread, count))


def report(
    latency_ms: Sequence[float], engine: str = "net.engine", **changes: Any
) -> LatencyReport:
    """Make up a report of these latencies; each engine has a hash of its own."""
    queries, now = [], 0
    for ms in latency_ms:
        end = now + round(1e6 * ms)
        queries.append(QueryTimes(now, now, now, now, now, end, end, end))
        now = end
    measured = Measurement(tuple(queries), now)
    stats = LatencyStats.from_samples(measured.latency_ms)
    made = LatencyReport(
        manifest=Manifest(
            "report", {"engine": Parent(engine, f"{sum(engine.encode()):064x}")}, target="tensorrt"
        ),
        mode=DEVICE.sentence,
        settings={"engine": "tensorrt 10.3.0", "cuda_graph": True},
        inputs={"input": (1, 3, 8, 8)},
        latency=stats,
        h2d=stats,
        compute=stats,
        d2h=stats,
        enqueue=stats,
        throughput_qps=measured.throughput_qps,
        environment=ENVIRONMENT,
        environment_after=ENVIRONMENT,
        warnings=(),
        export_times=tuple(measured.export_times()),
    )
    return replace(made, **changes)


def side(letter: str, **changes: Any) -> Side:
    """Make up a side that was timed in one run with others."""
    made = side_of_report(report(times(20), f"{letter}.engine"), letter, f"{letter}.engine", None)
    return replace(made, **({"is_report": False} | changes))


def board(power_mode: str = "15W", clocks: bool | None = True, name: str = "Orin") -> BoardState:
    """Make up a board that kept its clocks."""
    trace = BoardTrace(source="sysfs", board=name, power_mode=power_mode, jetson_clocks=clocks)
    return BoardState(trace, Verdict("stable", ("the clock stayed",)), None, "made up")


def layers(*modules: tuple[str, float]) -> LayerProfile:
    """Make up layers by the path of their module, with slashes, and their time."""
    rows = tuple(
        LayerRow(f"layer {i}", "Gemm", tuple(path.split("/")), ms, ms, ms, 0.0)
        for i, (path, ms) in enumerate(modules)
    )
    total = sum(row.ms for row in rows)
    return LayerProfile(rows, module_tree(rows, {}), total, total, 1, "made up")


def comparisons() -> Comparisons:
    """Make up three candidates, with everything that a page can show: one of them fails a gate."""
    parts = ("stem", "stages.0/blocks.0/attention", "stages.0/blocks.0/mlp", "head")
    reports = [
        report(
            times(1500, median_ms, 0.03, seed),
            f"{name}.engine",
            layers=layers(*((part, median_ms * (0.2 + 0.02 * i)) for i, part in enumerate(parts))),
            board=board("15W" if name != "fp16" else "MAXN"),
        )
        for seed, (name, median_ms) in enumerate(
            (("fp32", 6.0), ("int8", 4.1), ("fp16", 5.9), ("slow", 6.6))
        )
    ]
    found = compare_many(reports[0], reports[1:], fail_if=["p50 > +5%", "p99 > -2%"])
    reference = np.random.default_rng(0).standard_normal((40, 10))
    return Comparisons(
        tuple(
            replace(
                pair,
                num_samples=40,
                outputs={"logits": compare_arrays(reference, reference * (1 + 0.01 * i))},
                top1_a=98.75,
                top1_b=98.75 - 0.25 * i,
            )
            for i, pair in enumerate(found.pairs)
        )
    )
