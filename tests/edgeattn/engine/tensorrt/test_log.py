"""TensorRT's messages: kept in order, in bounded memory, and written beside the engine."""

from __future__ import annotations

import sys

import pytest

from edgeattn.engine.tensorrt.log import CapturedLog, make_logger
from edgeattn.errors import ArtifactError, MissingDependencyError


def test_lines_come_back_in_order_with_rising_times():
    log = CapturedLog()
    said = [("info", "a"), ("warning", "b"), ("verbose", "c"), ("internal_error", "d")]
    said += [("error", "e"), ("info", "f")]
    for severity, text in said:
        log.add(severity, text)
    assert [(line.severity, line.text) for line in log.lines] == said
    times = [line.seconds for line in log.lines]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] < 60
    assert [line.text for line in log.errors()] == ["d", "e"]
    assert [line.text for line in log.warnings()] == ["b"]
    assert log.left_out == 0


def test_an_empty_log_is_empty(tmp_path):
    log = CapturedLog()
    assert log.lines == log.errors() == log.warnings() == []
    log.write(tmp_path / "net.log")
    assert (tmp_path / "net.log").read_bytes() == b""
    log.raise_kept()  # nothing


def test_of_a_flood_the_first_and_the_last_lines_stay():
    log = CapturedLog()
    for number in range(50_001):
        log.add("verbose", f"v{number}")
    for number in range(2_500):
        log.add("error", f"e{number}")
    log.add("info", "end")
    verbose = [line.text for line in log.lines if line.severity == "verbose"]
    assert verbose == [f"v{n}" for n in [*range(20_000), *range(30_001, 50_001)]]
    assert [line.text for line in log.errors()] == [
        f"e{n}" for n in [*range(1_000), *range(1_500, 2_500)]
    ]
    assert log.lines[-1].text == "end"
    assert log.left_out == 10_001 + 500


def test_a_flood_of_chatter_does_not_push_out_errors():
    log = CapturedLog()
    log.add("error", "the cause")
    for number in range(60_000):
        log.add("verbose", str(number))
        log.add("info", str(number))
    assert [line.text for line in log.errors()] == ["the cause"]


def test_the_file_holds_time_severity_and_text(tmp_path):
    log = CapturedLog()
    log.add("warning", "Ω is not a name")
    log.add("internal_error", "two\nlines")
    for _ in range(2_001):
        log.add("error", "again")
    file = tmp_path / "net.engine.log"
    log.write(file)
    rows = file.read_text("utf-8").splitlines()
    assert rows[0].split(maxsplit=2)[1:] == ["warning", "Ω is not a name"]
    assert float(rows[0].split()[0]) < 60
    assert rows[1].split(maxsplit=2)[1:] == ["internal_error", "two"]
    assert rows[2] == "lines"
    assert rows[-1] == "(3 further messages were not kept)"
    assert len(rows) == 2_000 + 1 + 1


def test_a_folder_that_is_not_there_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder"):
        CapturedLog().write(tmp_path / "nowhere" / "net.log")


def test_without_tensorrt_its_absence_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="needs TensorRT's Python package"):
        make_logger(CapturedLog())
