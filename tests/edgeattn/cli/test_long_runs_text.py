"""What is printed of minutes and of builds, whose figures are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeattn.cli.builds_text import print_builds
from edgeattn.cli.main import run
from edgeattn.cli.sustained_text import print_minutes
from edgeattn.engine.build import build
from edgeattn.profiling.repeated_builds import RepeatedBuilds
from edgeattn.profiling.sustained import Sustained
from tests.edgeattn.profiling.page.long_runs import repeated_builds, sustained_run
from tests.graphs import classifier, save


@pytest.fixture
def engine(tmp_path):
    return build(save(classifier(1), tmp_path / "net.onnx"), threads=1)


def test_each_minute_is_a_line(capsys):
    run = Sustained.from_dict(sustained_run(12))
    print_minutes(run)
    head, _, *rows, drift = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "minute", "s", "queries", "p50", "ms", "p99", "ms", "max", "ms", "queries/s", "MHz", "°C",
        "W", "clocks",
    ]  # fmt: skip
    assert len(rows) == 12
    for number, (line, minute) in enumerate(zip(rows, run.minutes, strict=True), 1):
        cells = line.split()
        assert cells[:2] == [str(number), "30" if number == 12 else "60"]
        assert cells[3:5] == [f"{minute.p50_ms:.3f}", f"{minute.p99_ms:.3f}"]
        assert cells[-2:] == [f"{minute.power_mw / 1e3:.2f}", minute.verdict]
    assert drift.startswith(f"drift       {run.drift_percent:+.1f} %")


def test_columns_and_drift_that_are_not_known_are_left_out(capsys):
    run = Sustained.from_dict(sustained_run(1))
    nothing = dict.fromkeys(("p99_ms", "clock_mhz", "temperature_c", "power_mw"))
    minute = replace(run.minutes[0], verdict="unknown", **nothing)
    print_minutes(replace(run, minutes=(minute,)))
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "minute",
        "s",
        "queries",
        "p50",
        "ms",
        "max",
        "ms",
        "queries/s",
        "clocks",
    ]
    assert row.split()[-1] == "unknown"


def test_each_engine_is_a_line_and_the_kept_one_is_named(capsys):
    builds = RepeatedBuilds.from_dict(repeated_builds(3))
    print_builds(builds)
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["build", "p50", "ms", "ratio", "95", "%", "layers", "differ", "seconds"]
    engines, sentences = rows[:5], rows[5:]
    names = [line.strip().partition("  ")[0] for line in engines]
    assert names == ["before", "again", "1", "2", "3, kept"]
    for line, row in zip(engines, builds.rows, strict=True):
        assert f"{row.latency.p50_ms:.3f}" in line
        assert f"{row.ratio:.4f}" in line
    assert sentences == [f"builds      {sentence}" for sentence in builds.sentences]


def test_engines_that_do_not_tell_their_layers_have_no_column_for_them(capsys):
    builds = RepeatedBuilds.from_dict(repeated_builds(2))
    silent = tuple(replace(row, differing=None) for row in builds.rows)
    print_builds(replace(builds, rows=silent))
    assert "layers" not in capsys.readouterr().out.splitlines()[0]


def test_profile_prints_minutes_and_builds(engine, capfd):
    line = f"profile {engine} --duration 0.05 --no-board --sustained 0.005 --repeat-builds 1"
    assert run(line.split()) == 0
    out = capfd.readouterr().out
    assert "queries/s   clocks" in out
    assert "before, kept" in out
    assert "bytes of the engine that was there" in out


def test_rest_of_a_board_that_nobody_watches_is_refused(engine, capfd):
    assert run(["profile", str(engine), "--no-board", "--idle=2"]) == 2
    assert "--idle is for a board that is watched" in capfd.readouterr().err


def test_profile_prints_json_of_minutes_without_the_samples_of_sensors(engine, capfd):
    assert run(["profile", str(engine), "--duration=0", "--sustained=0.005", "--json"]) == 0
    sustained = json.loads(capfd.readouterr().out)["sustained"]
    assert len(sustained["minutes"]) == 1
    assert "board" not in sustained
