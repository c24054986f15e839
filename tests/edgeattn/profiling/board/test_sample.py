"""A trace and its JSON form."""

from __future__ import annotations

import json

import pytest

from edgeattn.errors import ArtifactError
from edgeattn.profiling.board.sample import BoardSample, BoardTrace

FULL = BoardTrace(
    samples=(
        BoardSample(
            5,
            {"gpu": 306.0, "cpu0": 729.0},
            {"tj": 45.5},
            {"VDD_IN": 4984.5},
            {"cpu": 12.5},
            1 << 30,
            ("over-current", "thermal"),
        ),
        BoardSample(9, {"gpu": 1020.0}, {}, {"VDD_IN": 5000.0, "VDD_SOC": 9.0}),
    ),
    source="sysfs",
    period_s=0.02,
    board="NVIDIA Jetson Orin Nano",
    power_mode="15W",
    jetson_clocks=False,
    total_rail="VDD_IN",
    problem="one sensor less",
)


@pytest.mark.parametrize("trace", [FULL, BoardTrace(), BoardTrace((BoardSample(0),), "cpu", 1.0)])
def test_a_trace_comes_back_from_json_as_it_was(trace: BoardTrace) -> None:
    values = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert BoardTrace.from_dict(values) == trace


def test_the_json_form_has_a_list_for_each_sensor() -> None:
    values = FULL.to_dict()
    assert values["time_ns"] == [5, 9]
    assert values["clocks_mhz"] == {"gpu": [306.0, 1020.0], "cpu0": [729.0, None]}
    assert values["power_mw"]["VDD_SOC"] == [None, 9.0]
    assert values["memory_used_bytes"] == [1 << 30, None]
    assert values["throttled"] == [["over-current", "thermal"], []]


def test_a_window_holds_both_its_ends() -> None:
    assert [s.time_ns for s in FULL.window(5, 9)] == [5, 9]
    assert [s.time_ns for s in FULL.window(6, 8)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"source": "guess"},
        {"time_ns": [5]},
        {"clocks_mhz": {"gpu": [1.0]}},
        {"clocks_mhz": None},
        {"throttled": [1, 2]},
        {"memory_used_bytes": [None]},
    ],
)
def test_values_that_are_no_trace_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="the board trace is malformed"):
        BoardTrace.from_dict(FULL.to_dict() | change)


@pytest.mark.parametrize("values", [None, {}, [], "trace"])
def test_other_values_are_refused(values: object) -> None:
    with pytest.raises(ArtifactError, match="malformed"):
        BoardTrace.from_dict(values)
