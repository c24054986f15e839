"""The benchmark of comparisons: its counting, and that it fails when intervals claim too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_comparison
from benchmarks.bench_comparison import coverage
from tests.graphs import classifier, save


def test_each_comparison_of_an_engine_with_itself_is_counted(tmp_path: Path) -> None:
    found = coverage(save(classifier(2), tmp_path / "net.onnx"), comparisons=3, duration_s=0.1)
    assert set(found) == {"turns p50", "turns p95", "apart p50", "apart p95"}
    for of in found.values():
        assert 0 <= of["held"] <= of["intervals"] == 3
        assert of["width_percent"] > 0


@pytest.mark.parametrize(("held", "code"), [(38, 0), (30, 1)])
def test_intervals_that_hold_the_truth_too_rarely_fail(
    held: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = []
    result = {"turns p50": {"intervals": 40, "held": held, "width_percent": 1.5}}
    monkeypatch.setattr(bench_comparison, "coverage", lambda *a: result)
    monkeypatch.setattr(bench_comparison, "append_row", lambda *row: rows.append(row))
    monkeypatch.setattr("edgeattn.export", lambda model, output: output)
    monkeypatch.setattr("sys.argv", ["bench_comparison"])
    with pytest.raises(SystemExit) as caught:
        bench_comparison.main()
    assert caught.value.code == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert rows[0][0] == "comparison"
