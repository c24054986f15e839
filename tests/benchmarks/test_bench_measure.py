"""The benchmark of the timing loop: it sees what a loop adds, and that ours adds little."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from benchmarks import bench_measure
from benchmarks.bench_measure import added_us


def test_the_loops_add_little() -> None:
    added = added_us(iterations=2000, rounds=5)
    assert set(added) == {"plain", "timed", "streams"}
    # Some 0.3 us each; the benchmark itself asks for 2, a loaded machine of tests for less.
    assert all(cost < 20 for cost in added.values())


def test_a_loop_that_dawdles_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def dawdle(query: Callable[[], object], iterations: int, **_: float) -> None:
        for _round in range(iterations):
            query()
            time.sleep(0.001)

    monkeypatch.setattr(bench_measure, "measure", dawdle)
    assert added_us(iterations=20, rounds=1)["plain"] > 900


@pytest.mark.parametrize(("cost", "code"), [(1.9, 0), (2.1, 1)])
def test_the_exit_code_tells_whether_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cost: float,
    code: int,
) -> None:
    rows: list[object] = []
    monkeypatch.setattr(bench_measure, "added_us", lambda *a: {"plain": 0.1, "timed": cost})
    monkeypatch.setattr(bench_measure, "append_row", lambda *row: rows.append(row))
    monkeypatch.setattr("sys.argv", ["bench_measure"])
    with pytest.raises(SystemExit) as caught:
        bench_measure.main()
    assert caught.value.code == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"plain": 0.1, "timed": cost}
    assert len(rows) == 1
