"""The board beside a measurement: rest, energy above it, verdict; a made-up board has its files."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeattn.engine.base import QueryTimes
from edgeattn.errors import ArtifactError, DataError
from edgeattn.profiling.board.watch import BoardState, BoardWatch
from edgeattn.profiling.measurement import Measurement
from tests.edgeattn.profiling.board.boards import orin_nano, write

REST_MA, BUSY_MA, MILLIVOLTS = 1000, 3000, 5000
CURRENT = "sys/class/hwmon/hwmon1/curr1_input"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An Orin Nano at rest, without the machine's own tools."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    root = orin_nano(tmp_path / "board")
    write(root, {CURRENT: REST_MA, "sys/class/hwmon/hwmon1/in1_input": MILLIVOLTS})
    return root


def work(root: Path, seconds: float, queries: int) -> Measurement:
    """Let the board draw more for a while, as if queries ran."""
    write(root, {CURRENT: BUSY_MA})
    start = time.perf_counter_ns()
    time.sleep(seconds)
    end = time.perf_counter_ns()
    write(root, {CURRENT: REST_MA})
    step = (end - start) // queries
    begins = [start + i * step for i in range(queries)]
    times = tuple(QueryTimes(b, b, b, b, b, b + step, b + step, b + step) for b in begins)
    return Measurement(times, end - start, tuple([step] * queries))


def watched(
    board: Path, idle_s: float, measure: Callable[[float], Measurement], seconds: float
) -> tuple[Measurement, BoardState]:
    """Watch a measurement; a longer one while a busy machine keeps the sampler from its samples."""
    for longer in (1, 2, 4, 8, 16):
        with BoardWatch("gpu", idle_s=idle_s * longer, root=board) as watch:
            measurement = measure(seconds * longer)
        state = watch.state(measurement)
        if "samples" not in state.no_energy:
            break
    return measurement, state


def test_a_query_costs_what_it_takes_above_rest(board: Path) -> None:
    measurement, state = watched(board, 0.4, lambda seconds: work(board, seconds, 40), 0.8)
    watts = MILLIVOLTS * (BUSY_MA - REST_MA) / 1e6
    expected = watts * 1e3 * measurement.wall_ns / 1e9 / 40
    assert state.energy is not None
    assert state.energy.mj == pytest.approx(expected, rel=0.1)
    assert state.energy.idle_mw == pytest.approx(MILLIVOLTS * REST_MA / 1e3, rel=0.01)
    assert state.energy.rail == "VDD_IN"
    assert (state.no_energy, state.verdict.word) == ("", "stable")
    assert BoardState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_ctrl_c_while_the_board_rests_stops_the_sampler(
    board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> None:
        if seconds == 12.5:
            raise KeyboardInterrupt
        sleep(seconds)

    sleep, start = time.sleep, subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def note(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(time, "sleep", interrupted)
    monkeypatch.setattr(subprocess, "Popen", note)
    with pytest.raises(KeyboardInterrupt), BoardWatch("gpu", idle_s=12.5, root=board):
        pytest.fail("the block was entered")
    (sampler,) = started
    assert sampler.returncode is not None


def test_without_rest_a_query_costs_what_the_whole_board_takes(board: Path) -> None:
    measurement, state = watched(board, 0, lambda seconds: work(board, seconds, 10), 0.5)
    energy = state.energy
    assert energy is not None
    assert energy.idle_mw is None
    expected = MILLIVOLTS * BUSY_MA / 1e6 * 1e3 * measurement.wall_ns / 1e9 / 10
    assert energy.mj == pytest.approx(expected, rel=0.1)


def test_a_board_that_does_not_work_harder_has_no_energy_above_rest(board: Path) -> None:
    def idle(seconds: float) -> Measurement:
        write(board, {CURRENT: REST_MA})
        start = time.perf_counter_ns()
        time.sleep(seconds)
        end = time.perf_counter_ns()
        times = QueryTimes(start, start, start, start, start, end, end, end)
        return Measurement((times,), end - start)

    _, state = watched(board, 0.3, idle, 0.4)
    assert state.energy is None
    assert "the board was not at rest" in state.no_energy


def test_a_machine_without_power_rails_is_not_kept_waiting(tmp_path: Path) -> None:
    began = time.monotonic()
    with BoardWatch("cpu", idle_s=60, root=write(tmp_path, {"proc/loadavg": 0})) as watch:
        start = time.perf_counter_ns()
    assert time.monotonic() - began < 30
    times = QueryTimes(start, start, start, start, start, start + 9, start + 9, start + 9)
    state = watch.state(Measurement((times,), 9))
    assert state.energy is None
    assert state.no_energy
    assert state.verdict.word == "unknown"


@pytest.mark.parametrize("idle_s", [-1, float("inf"), float("nan")])
def test_a_rest_of_no_length_is_refused(idle_s: float) -> None:
    with pytest.raises(DataError, match="idle_s is"):
        BoardWatch("gpu", idle_s)


@pytest.mark.parametrize("lost", ["verdict", "energy", "no_energy", "board"])
def test_a_state_that_lacks_a_part_is_refused(board: Path, lost: str) -> None:
    with BoardWatch("gpu", idle_s=0, root=board) as watch:
        measurement = work(board, 0.1, 1)
    values = watch.state(measurement).to_dict()
    del values[lost]
    with pytest.raises(ArtifactError, match="malformed"):
        BoardState.from_dict(values)
