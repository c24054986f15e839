"""A report as a trace for Perfetto and Chrome's about:tracing: the queries, the layers, the board.

Queries lie where they ran, each with its copies, compute and enqueue on tracks of their own. The
board's sensors are counters beside them if it is known when the queries ran. The layers of one
query are a process of their own, end to end in the order in which they run, each as long as its
time in a typical query, with the modules over them: nobody measured when a layer began.

References:
    Trace Event Format, docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU:
    times in microseconds; `X` complete events, `C` counters, `M` metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeattn.artifacts import write_bytes
from edgeattn.errors import ArtifactError

Event = dict[str, Any]

_QUERIES, _LAYERS, _BOARD = 1, 2, 3
_TRACKS = (
    ("enqueue", "host: enqueue", "startEnqMs", "endEnqMs"),
    ("h2d", "host to device", "startH2dMs", "endH2dMs"),
    ("compute", "compute", "startComputeMs", "endComputeMs"),
    ("d2h", "device to host", "startD2hMs", "endD2hMs"),
)
_COUNTERS = ("clocks_mhz", "temperatures_c", "power_mw", "utilisation_percent")


def write_trace(report: Mapping[str, Any], output: Path) -> None:
    """Write the trace of a report.

    Args:
        report: As `trace_of_report` takes it.
        output: File to write, `NAME.trace.json`.

    Raises:
        ArtifactError: If the report is malformed, or the file cannot be written.
    """
    text = json.dumps(trace_of_report(report), separators=(",", ":"), allow_nan=False)
    write_bytes(Path(output), text.encode())


def trace_of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a report into trace events.

    Args:
        report: `LatencyReport.to_dict()`, and if known `layers` (`LayerProfile.to_dict()`),
            `board` (`BoardTrace.to_dict()`) and `window_ns`, when the first query began and the
            last one ended by the clock of the board's samples.

    Returns:
        The JSON object form of the format.

    Raises:
        ArtifactError: If the report is malformed.
    """
    try:
        events = [*_queries(report["exportTimes"])]
        if layers := report.get("layers"):
            events += _layers(layers["rows"])
        board, window = report.get("board"), report.get("window_ns")
        if board and window:
            events += _board(board, window[0])
        return {
            "traceEvents": events,
            "displayTimeUnit": "ms",
            "otherData": {"mode": report["mode"], "inputs": json.dumps(report["inputs"])},
        }
    except (KeyError, TypeError, AttributeError) as err:
        raise ArtifactError(f"no trace can be made of the report: {err!r}") from err


def _queries(queries: Sequence[Mapping[str, float]]) -> Iterator[Event]:
    """Lay each query's parts on their tracks; parts that took no time anywhere have none."""
    yield _name("process_name", _QUERIES, 0, "queries")
    for thread, (name, title, start, end) in enumerate(_TRACKS, start=1):
        if not any(query[end] > query[start] for query in queries):
            continue
        yield _name("thread_name", _QUERIES, thread, title)
        for number, query in enumerate(queries):
            args = {"query": number, "latency_ms": query["latencyMs"]}
            length = query[end] - query[start]
            yield _slice(name, _QUERIES, thread, query[start], length, args)


def _layers(rows: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    """Lay the layers end to end, and over neighbours of one module a slice for the module."""
    yield _name("process_name", _LAYERS, 0, "layers of a typical query, end to end")
    yield _name("thread_name", _LAYERS, 1, "layers")
    now = 0.0
    open_modules: list[tuple[str, float]] = []
    for row in rows:
        same = _common_length([name for name, _ in open_modules], row["module"])
        yield from _closed(open_modules, same, now)
        open_modules += [(name, now) for name in row["module"][same:]]
        known = ("kind", "precision", "bytes", "flops", "gb_s", "gflop_s", "ceiling_share")
        args = {key: row[key] for key in known if row[key] not in (None, "")}
        yield _slice(row["name"], _LAYERS, 1, now, row["ms"], args)
        now += row["ms"]
    yield from _closed(open_modules, 0, now)


def _closed(open_modules: list[tuple[str, float]], kept: int, now: float) -> Iterator[Event]:
    """End the modules beyond the first few: slices that hold others nest by their times."""
    while len(open_modules) > kept:
        name, start = open_modules.pop()
        yield _slice(name, _LAYERS, 1, start, now - start, {})


def _common_length(open_names: Sequence[str], path: Sequence[str]) -> int:
    length = 0
    while length < min(len(open_names), len(path)) and open_names[length] == path[length]:
        length += 1
    return length


def _board(board: Mapping[str, Any], origin_ns: int) -> Iterator[Event]:
    """Count up what the sensors said, and mark when something held the clocks down."""
    yield _name("process_name", _BOARD, 0, board["board"] or "board")
    micros = [(time - origin_ns) / 1e3 for time in board["time_ns"]]
    for group in _COUNTERS:
        for sensor, values in board[group].items():
            for time, value in zip(micros, values, strict=True):
                if value is not None:
                    yield _event("C", f"{group} {sensor}", _BOARD, time, {"value": value})
    for time, reasons in zip(micros, board["throttled"], strict=True):
        for reason in reasons:
            yield _event("i", reason, _BOARD, time, {}) | {"s": "g"}


def _slice(
    name: str, process: int, thread: int, start_ms: float, length_ms: float, args: Mapping[str, Any]
) -> Event:
    event = _event("X", name, process, 1e3 * start_ms, args)
    return event | {"tid": thread, "dur": round(1e3 * length_ms, 3)}


def _name(what: str, process: int, thread: int, name: str) -> Event:
    return _event("M", what, process, 0.0, {"name": name}) | {"tid": thread}


def _event(phase: str, name: str, process: int, micros: float, args: Mapping[str, Any]) -> Event:
    event = {"ph": phase, "name": name, "pid": process, "tid": 0, "ts": round(micros, 3)}
    return event | {"args": dict(args)}
