"""The trace of a report, read back as a viewer does: what lies on a track, what holds what."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest

from edgeattn.errors import ArtifactError
from edgeattn.profiling.trace import trace_of_report, write_trace
from tests.edgeattn.profiling.page import reports


def _events(report: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [e for e in trace_of_report(report)["traceEvents"] if e["ph"] == phase]


def _tracks(report: dict[str, Any], process: str) -> dict[str, list[dict[str, Any]]]:
    """Give the slices of each track of a process by the names that a viewer shows."""
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in _events(report, "M") if e["tid"]}
    (pid,) = [
        e["pid"]
        for e in _events(report, "M")
        if e["name"] == "process_name" and process in e["args"]["name"]
    ]
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in _events(report, "X"):
        if event["pid"] == pid:
            found[names[event["pid"], event["tid"]]].append(event)
    return found


def test_each_query_lies_where_it_ran_with_its_parts_on_tracks():
    report = reports.latency_report(40)
    tracks = _tracks(report, "queries")
    assert set(tracks) == {"host: enqueue", "host to device", "compute", "device to host"}
    computes = tracks["compute"]
    assert len(computes) == 40
    for event, query in zip(computes, report["exportTimes"], strict=True):
        assert event["ts"] == pytest.approx(1e3 * query["startComputeMs"], abs=1e-3)
        assert event["dur"] == pytest.approx(1e3 * query["computeMs"], abs=2e-3)
        assert event["args"]["latency_ms"] == query["latencyMs"]


def test_a_query_without_copies_has_no_tracks_for_them():
    report = reports.latency_report(3)
    for query in report["exportTimes"]:
        query["endH2dMs"] = query["startH2dMs"]
        query["endD2hMs"] = query["startD2hMs"]
    assert set(_tracks(report, "queries")) == {"host: enqueue", "compute"}


def test_queries_of_two_streams_lie_in_lanes_that_do_not_overlap():
    report = reports.latency_report(30)
    other = [
        {key: value + (1.7 if key[:3] in ("sta", "end") else 0.0) for key, value in query.items()}
        for query in report["exportTimes"]
    ]
    report["exportTimes"] = [
        q for pair in zip(report["exportTimes"], other, strict=True) for q in pair
    ]
    tracks = _tracks(report, "queries")
    lanes = [events for name, events in tracks.items() if name.startswith("compute")]
    assert [len(lane) for lane in lanes] == [30, 30]
    for lane in lanes:
        for before, after in pairwise(lane):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6


def test_queries_that_touch_share_a_lane():
    report = reports.latency_report(2)
    first, second = report["exportTimes"]
    for query, start in ((first, 0.0), (second, 2.5)):
        for name in ("Enq", "H2d", "Compute", "D2h"):
            query[f"start{name}Ms"], query[f"end{name}Ms"] = start, start + 2.5
    assert [len(events) for events in _tracks(report, "queries").values()] == [2, 2, 2, 2]


def test_layers_lie_end_to_end_and_modules_hold_theirs():
    report = reports.full_report(20)
    (slices,) = _tracks(report, "layers").values()
    rows = report["layers"]["rows"]
    leaves = [e for e in slices if "kind" in e["args"]]
    assert [e["name"] for e in leaves] == [row["name"] for row in rows]
    assert sum(e["dur"] for e in leaves) == pytest.approx(1e3 * report["layers"]["total_ms"], 1e-4)
    # A viewer's stack: each slice lies within the one below it, or after its end.
    stack: list[dict[str, Any]] = []
    found: dict[str, list[str]] = {}
    for event in slices:
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"] + 1e-6:
            stack.pop()
        if stack:
            assert event["ts"] + event["dur"] <= stack[-1]["ts"] + stack[-1]["dur"] + 1e-6
        found[event["name"]] = [below["name"] for below in stack]
        stack.append(event)
    assert all(found[row["name"]] == list(row["module"]) for row in rows)


def test_sensors_are_counters_on_the_clock_of_the_queries():
    report = reports.full_report(200)
    power = [e for e in _events(report, "C") if e["name"] == "power_mw VDD_IN"]
    board = report["board"]
    assert [e["args"]["value"] for e in power] == board["power_mw"]["VDD_IN"]
    first = (board["time_ns"][0] - report["window_ns"][0]) / 1e3
    assert power[0]["ts"] == pytest.approx(first)
    marks = [e["name"] for e in _events(report, "i")]
    assert marks == [reason for reasons in board["throttled"] for reason in reasons]


def test_sensors_are_left_out_when_nothing_tells_when_the_queries_ran():
    report = reports.full_report(5)
    del report["window_ns"]
    assert not _events(report, "C")


def test_the_file_is_the_trace(tmp_path):
    report = reports.full_report(5)
    write_trace(report, tmp_path / "net.trace.json")
    written = json.loads((tmp_path / "net.trace.json").read_text())
    assert written == trace_of_report(report)


def test_a_report_without_queries_is_refused():
    with pytest.raises(ArtifactError, match="exportTimes"):
        trace_of_report({"mode": "host"})
