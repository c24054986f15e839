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
    """Lay each query's parts on their tracks; parts that took no time anywhere have none.

    Where streams run side by side, a track has as many lanes as queries overlap.
    """
    yield _name("process_name", _QUERIES, 0, "queries")
    thread = 0
    for name, title, start, end in _TRACKS:
        if not any(query[end] > query[start] for query in queries):
            continue
        ends: list[float] = []  # of the last query of each lane
        for number, query in sorted(enumerate(queries), key=lambda item: item[1][start]):
            free = (i for i, last in enumerate(ends) if last <= query[start])
            lane = next(free, len(ends))
            if lane == len(ends):
                ends.append(0.0)
                number_of_lane = f" {lane + 1}" if lane else ""
                yield _name("thread_name", _QUERIES, thread + lane + 1, title + number_of_lane)
            ends[lane] = query[end]
            args = {"query": number, "latency_ms": query["latencyMs"]}
            yield _slice(name, _QUERIES, thread + lane + 1, query[start], query[end], args)
        thread += len(ends)


def _layers(rows: Sequence[Mapping[str, Any]]) -> Iterator[Event]:
    """Lay the layers end to end, and over neighbours of one module a slice for the module."""
    yield _name("process_name", _LAYERS, 0, "layers of a typical query, end to end")
    yield _name("thread_name", _LAYERS, 1, "layers")
    now = 0.0
    path: list[tuple[str, float]] = []  # modules not ended yet, with their beginnings
    slices: list[tuple[int, Event]] = []

    def close(kept: int) -> None:
        while len(path) > kept:
            name, start = path.pop()
            slices.append((len(path), _slice(name, _LAYERS, 1, start, now, {})))

    for row in rows:
        same = _common_length([name for name, _ in path], row["module"])
        close(same)
        path += [(name, now) for name in row["module"][same:]]
        known = ("kind", "precision", "bytes", "flops", "gb_s", "gflop_s", "ceiling_share")
        args = {key: row[key] for key in known if row[key] not in (None, "")}
        slices.append((len(path), _slice(row["name"], _LAYERS, 1, now, now + row["ms"], args)))
        now += row["ms"]
    close(0)
    # What holds another slice comes before it.
    slices.sort(key=lambda item: (item[1]["ts"], -item[1]["dur"], item[0]))
    yield from (event for _, event in slices)


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
    name: str, process: int, thread: int, start_ms: float, end_ms: float, args: Mapping[str, Any]
) -> Event:
    """Make a slice; both ends are rounded to nanoseconds, so that what touches does not overlap."""
    start_ns, end_ns = round(1e6 * start_ms), round(1e6 * end_ms)
    event = _event("X", name, process, start_ns / 1e3, args)
    return event | {"tid": thread, "dur": (end_ns - start_ns) / 1e3}


def _name(what: str, process: int, thread: int, name: str) -> Event:
    return _event("M", what, process, 0.0, {"name": name}) | {"tid": thread}


def _event(phase: str, name: str, process: int, micros: float, args: Mapping[str, Any]) -> Event:
    event = {"ph": phase, "name": name, "pid": process, "tid": 0, "ts": round(micros, 3)}
    return event | {"args": dict(args)}
