"""Rows of earlier runs: read back, and not measured twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import past_rows as module
from benchmarks.past_rows import Resumed, past_rows
from benchmarks.rows import append_row


def test_rows_of_one_benchmark_come_oldest_day_first(tmp_path: Path) -> None:
    for device, day in (("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "2026-01-01")):
        (tmp_path / device).mkdir()
        rows = [{"benchmark": name, "date": day} for name in ("wanted", "other")]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / device / f"{day}.jsonl").write_text(text)
    days = [row["date"] for row in past_rows("wanted", tmp_path)]
    assert days == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_case_measured_today_at_this_commit_need_not_be_measured_again(tmp_path: Path) -> None:
    for seconds in (1.0, 2.0):
        append_row("b", {"n": 1}, {"seconds": seconds}, results=tmp_path)
    resumed = Resumed("b", True, tmp_path)
    assert resumed.result({"n": 1}) == {"seconds": 2.0}
    assert resumed.result({"n": 2}) is None
    assert Resumed("other", True, tmp_path).result({"n": 1}) is None
    assert Resumed("b", False, tmp_path).result({"n": 1}) is None


def test_another_commit_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_row("b", {}, {"seconds": 1.0}, results=tmp_path)
    monkeypatch.setattr(module.rows, "current_commit", lambda: "0123abc")
    assert Resumed("b", True, tmp_path).result({}) is None
