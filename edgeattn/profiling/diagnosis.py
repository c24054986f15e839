"""What makes a latency less than trustworthy, one sentence each.

The thresholds for the queries are trtexec's, so that both tools warn of the same runs.

References:
    NVIDIA/TensorRT, samples/common/sampleReporting.cpp, `printEpilog`: enqueueing above 0.8 of the
    computation, a copy that takes as long as it, a coefficient of variation above 2.5 %, several
    streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeattn.profiling.board.watch import BoardState
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers.rows import LayerProfile
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import Mode
from edgeattn.profiling.stats import LatencyStats

_MAX_CV_PERCENT = 2.5
_MAX_ENQUEUE_SHARE = 0.8

# On a quiet machine the layers of the CPU engine add up to a query within half of this.
_MAX_LAYER_GAP = 0.1


def diagnose(
    measurement: Measurement, stats: dict[str, LatencyStats], settings: dict[str, Any]
) -> Iterator[str]:
    """Look for what spoils a measurement in the measurement itself.

    Args:
        measurement: What was measured.
        stats: Its `latency` and, of an engine on a device, `h2d`, `compute`, `d2h` and `enqueue`.
        settings: Settings of the engine.
    """
    latency = stats["latency"]
    if latency.cv_percent > _MAX_CV_PERCENT:
        yield (
            f"the latency varies: its coefficient of variation is {latency.cv_percent:.1f} %, "
            f"above {_MAX_CV_PERCENT} %"
        )
    if measurement.settled is False:
        yield (
            "the spread of the latencies did not settle in the time given to it: "
            f"{latency.num_samples} queries, and it still changes"
        )
    if measurement.streams > 1:
        yield from _crowd(measurement.streams, settings)
    if "enqueue" in stats:
        yield from _bounds(stats, settings)


def _crowd(streams: int, settings: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{streams} queries ran at the same time: a latency holds what its query lost to the "
        "others, so judge by the throughput"
    )
    contexts = settings.get("contexts", streams)
    if contexts < streams:
        yield (
            f"{streams} queries shared {contexts} execution context{'s' if contexts > 1 else ''} "
            "and waited for one another"
        )


def _bounds(stats: dict[str, LatencyStats], settings: dict[str, Any]) -> Iterator[str]:
    """Tell what beside the computation bounds the throughput of a device."""
    compute_ms = stats["compute"].p50_ms
    enqueue_ms = stats["enqueue"].p50_ms
    if enqueue_ms > _MAX_ENQUEUE_SHARE * compute_ms:
        remedy = "" if settings.get("cuda_graph") else "; a CUDA graph makes that shorter"
        yield (
            f"enqueueing bounds the throughput: it takes {enqueue_ms:.3f} ms of the processor, the "
            f"computation {compute_ms:.3f} ms of the GPU{remedy}"
        )
    for name, what in (("h2d", "inputs to"), ("d2h", "outputs from")):
        copy_ms = stats[name].p50_ms
        if copy_ms >= compute_ms:
            yield (
                f"copies dominate: {what} the device take {copy_ms:.3f} ms, the computation "
                f"{compute_ms:.3f} ms"
            )


def diagnose_machine(before: Environment) -> Iterator[str]:
    """Look for what disturbs in the state of the machine before the measurement."""
    if before.load_average is not None and before.load_average > before.logical_cores / 2:
        yield (
            f"the machine was busy: a load of {before.load_average:.1f} on "
            f"{before.logical_cores} processors"
        )
    if before.governor is not None and before.governor != "performance":
        yield f"clocks may change: the frequency governor is {before.governor}"


def diagnose_mode(mode: Mode, settings: dict[str, Any]) -> Iterator[str]:
    """Tell where an engine could not do what its mode measures."""
    if mode.cuda_graph and settings.get("cuda_graph") is False:
        reason = settings.get("cuda_graph_fallback", "")
        yield f"the mode {mode.name} launches CUDA graphs, and this engine ran without: {reason}"


def diagnose_board(board: BoardState) -> Iterator[str]:
    """Look for what disturbed on the board during the measurement."""
    if board.verdict.word == "throttled":
        yield f"the board did not keep its clocks: {'; '.join(board.verdict.reasons)}"
    if board.trace.source != "none" and board.trace.problem:
        yield f"the board was watched in part only: {board.trace.problem}"


def diagnose_layers(layers: LayerProfile) -> Iterator[str]:
    """Look whether layers that run one after the other add up to the query that they are of."""
    if layers.whole_ms and abs(layers.total_ms / layers.whole_ms - 1) > _MAX_LAYER_GAP:
        yield (
            f"the layers add up to {100 * layers.total_ms / layers.whole_ms:.0f} % of a query: the "
            "machine was not equally busy while queries and layers were measured"
        )
