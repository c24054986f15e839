"""The benchmark of the sampler: it sees what a process beside takes, and only that."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from benchmarks import bench_sampler
from benchmarks.bench_sampler import compare


def test_both_halves_of_a_run_are_timed_and_the_sampler_goes_on_to_its_end() -> None:
    result = compare(lambda: time.sleep(0.001), rounds=6, seconds=0.05)
    assert 0.9 < result["p50_ms_without"] < 20
    low, median, high = result["moved_percent"]
    assert low <= median <= high
    assert result["samples"] > 10


def test_a_sampler_that_takes_time_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {bench_sampler.signal.SIGSTOP: 0.001, bench_sampler.signal.SIGCONT: 0.01}
    pause = [0.001]
    kill = bench_sampler.os.kill

    def note(pid: int, way: Any) -> None:
        pause[0] = taken[way]
        kill(pid, way)

    monkeypatch.setattr(bench_sampler.os, "kill", note)
    result = compare(lambda: time.sleep(pause[0]), rounds=6, seconds=0.05)
    assert result["moved_percent"][0] > 30


@pytest.mark.parametrize(("low", "code"), [(0.9, 0), (1.1, 1)])
def test_the_exit_code_tells_whether_it_certainly_moves_too_much(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], low: float, code: int
) -> None:
    figures = {"p50_ms_without": 1.0, "p50_ms_with": 1.1, "samples": 5, "source": "cpu"}
    figures |= {"moved_percent": [low, 2.0, 3.0], "noise_percent": [-1.0, 0.0, 1.0]}
    rows: list[object] = []
    monkeypatch.setattr(bench_sampler, "_measured", lambda _: figures)
    monkeypatch.setattr(bench_sampler, "append_row", lambda *row: rows.append(row))
    monkeypatch.setattr("sys.argv", ["bench_sampler", "--threads", "1"])
    assert bench_sampler.main() == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert len(rows) == 1
