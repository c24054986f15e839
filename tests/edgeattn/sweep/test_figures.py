"""What rows take from reports. The board of the report is made up."""

import pytest

from edgeattn.sweep.figures import conditions, figures
from tests.edgeattn.profiling.page import reports

ACCURACY = dict.fromkeys(
    (
        "sqnr_db",
        "cosine",
        "max_abs_error",
        "max_rel_error",
        "top1_agreement",
        "top1_a",
        "top1_b",
        "top1_drop",
    ),
    1.0,
)


def test_the_board_is_summed_up_over_the_queries_alone():
    report = reports.full_report(200)
    start, end = report["window_ns"]
    board = report["board"]
    inside = [i for i, time in enumerate(board["time_ns"]) if start <= time <= end]
    assert len(inside) < len(board["time_ns"])
    gpu = [board["clocks_mhz"]["gpu"][i] for i in inside]
    hottest = max(column[i] for column in board["temperatures_c"].values() for i in inside)
    found = figures(report, ACCURACY, 5)
    assert found["clock_mhz"] == pytest.approx(sum(gpu) / len(gpu))
    assert found["temperature_c"] == hottest
    assert found["energy_mj"] == report["energy"]["mj"]
    assert found["power_mw"] == report["energy"]["busy_mw"]
    assert found["idle_mw"] == report["energy"]["idle_mw"]
    assert found["p50_ms"] == report["latency"]["p50_ms"]
    assert found["accuracy_samples"] == 5


def test_of_an_engine_on_processors_the_fastest_ones_clock_counts():
    report = reports.full_report(200)
    report["manifest"]["target"] = "cpu"
    board = report["board"]
    start, end = report["window_ns"]
    clocks = [
        max(board["clocks_mhz"][f"cpu{core}"][i] for core in range(6))
        for i, time in enumerate(board["time_ns"])
        if start <= time <= end
    ]
    found = figures(report, ACCURACY, 1)
    assert found["clock_mhz"] == pytest.approx(sum(clocks) / len(clocks))


def test_a_row_tells_what_it_was_measured_under():
    report = reports.full_report(50) | {"locked_clocks": ["gpu at 1020 MHz"]}
    found = conditions(report)
    assert found["verdict"] == "throttled"
    assert found["verdict_reasons"] == list(report["verdict"]["reasons"])
    assert found["power_mode"] == "15W"
    assert found["power_rail"] == "VDD_IN"
    assert found["locked_clocks"] == ["gpu at 1020 MHz"]
    assert found["mode"] == report["mode"]


def test_what_was_not_looked_at_is_nothing():
    keys = ("board", "verdict", "energy", "sustained")
    for report in (
        reports.latency_report(20),
        reports.latency_report(20) | dict.fromkeys(keys) | {"window_ns": [0, 1]},
    ):
        found = figures(report, ACCURACY, 1)
        names = ("energy_mj", "power_mw", "clock_mhz", "temperature_c", "drift_percent")
        assert {found[name] for name in names} == {None}
        told = conditions(report)
        assert (told["verdict"], told["power_mode"], told["power_rail"]) == (None, None, None)
        assert told["locked_clocks"] == []
