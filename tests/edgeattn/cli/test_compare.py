"""`compare` as it is typed: several files, reports, gates and what they print and exit with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.artifacts import write_json
from edgeattn.cli.main import run
from edgeattn.profiling.board.energy import EnergyPerQuery
from edgeattn.profiling.report import read_report
from tests.edgeattn.profiling.comparison.made import board, layers, report, times
from tests.graphs import classifier, save


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two graphs; a report, one of a faster engine, and one that is as fast as the first."""
    for name in "ab":
        save(classifier(2), tmp_path / f"{name}.onnx")
    parts = [(f"stages.0/blocks.{i}", 0.1 * (i + 1)) for i in range(14)]
    slower = [(path, ms * (3 if path == "stages.0/blocks.4" else 1)) for path, ms in parts]
    made = {
        "old": report(times(1000, 5.0, seed=1), "old.engine", layers=layers(*slower)),
        "new": report(times(1000, 4.0, seed=2), "new.engine", layers=layers(*parts)),
        "same": report(times(1000, 5.0, seed=3), "same.engine"),
    }
    for name, each in made.items():
        write_json(tmp_path / f"{name}.profile.json", each.to_dict())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compared(*words: str) -> int:
    return run(["compare", *words])


def test_reports_are_compared_and_a_regression_exits_with_1(folder, capfd):
    assert compared("old.profile.json", "new.profile.json", "--fail-if", "p99 > +5%") == 0
    out, err = capfd.readouterr()
    assert "B takes 0.80 of A's median (0." in out
    assert "gate B      p99 > +5%: passed, it is -" in out
    assert "accuracy    not compared: A and B are reports, and no engine" in out
    assert "warning: A and B were measured in different runs" in err
    assert compared("new.profile.json", "old.profile.json", "--fail-if", "p99 > +5%") == 1
    out, err = capfd.readouterr()
    assert "Error: old.profile.json fails what --fail-if asks for: p99 > +5%: it is +2" in err
    assert "gate B      p99 > +5%: failed" in out


def test_what_is_too_close_to_call_warns_and_fails_only_if_strict(folder, capfd):
    line = ("old.profile.json", "same.profile.json", "--fail-if", "p50 > +0%")
    assert compared(*line) == 0
    out, err = capfd.readouterr()
    assert "too close to call" in out
    assert "warning: same.profile.json: p50 > +0%: too close to call: it is " in err
    assert compared(*line, "--strict") == 1
    err = capfd.readouterr().err
    assert "Error: same.profile.json fails what --fail-if asks for: p50 > +0%: too close" in err


def test_energy_is_compared_where_both_reports_have_it(folder, capfd):
    for name, mj in (("old", 50.0), ("new", 40.0)):
        path = folder / f"{name}.profile.json"
        energy = EnergyPerQuery(mj, 0.4, 60.0, 4600.0, 11800.0, "VDD_IN", "made up", 90, 5.0)
        state = replace(board(), energy=energy)
        write_json(path, replace(read_report(path), board=state).to_dict())
    words = ["old.profile.json", "new.profile.json", "--html", "c.html"]
    assert compared(*words, "--fail-if", "energy_mj > 45") == 0
    assert "energy      B takes 0.80 of A's: 40.00 mJ/query, A 50.00" in capfd.readouterr().out
    assert "Energy, B over A" in (folder / "c.html").read_text()


def test_modules_are_listed_by_what_they_change(folder, capfd):
    assert compared("old.profile.json", "new.profile.json") == 0
    lines = capfd.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == ["module"]) + 2
    assert " ".join(lines[first].split()) == "stage 0 / block 4 1.500 0.500 -1.000 0.33"
    assert "and 2 modules that differ less; --json shows them" in lines


def test_several_candidates_are_one_json_object_and_one_page(folder, capfd):
    words = ["a.onnx", "b.onnx", "old.profile.json", "--json", "--html", "c.html"]
    words += ["--duration", "0", "--warm-up", "0", "--threads", "1", "--shapes", "x:2x5"]
    assert compared(*words) == 0
    out, _ = capfd.readouterr()
    values = json.loads(out)
    assert [side["letter"] for side in values["sides"]] == ["A", "B", "C"]
    of_engine, of_report = values["comparisons"]
    assert of_engine["figures"]["max_abs_error"] == 0
    assert of_report["outputs"] == {}
    assert of_report["ratios"]["p50"]["value"] == of_report["figures"]["latency_ratio"]
    assert "b.onnx" in (folder / "c.html").read_text()


def test_two_engines_print_the_object_of_their_pair(folder, capfd):
    assert compared("a.onnx", "b.onnx", "--no-latency", "--json", "--threads", "1") == 0
    values = json.loads(capfd.readouterr().out)
    assert values["num_samples"] == 2
    assert values["latency_a"] is None
    assert values["violations"] == []


def test_each_candidate_that_fails_is_named(folder, capfd):
    words = ["new.profile.json", "old.profile.json", "same.profile.json"]
    assert compared(*words, "--fail-if", "p50 > +5%", "--fail-if", "p50_ms > 4.9") == 1
    out, err = capfd.readouterr()
    assert "old.profile.json fails what --fail-if asks for: p50 > +5%: it is +2" in err
    assert "; p50_ms > 4.9: it is 5" in err
    assert "same.profile.json fails" in err
    assert "C takes 1.25 of A's median" in out


def test_other_modes_are_refused_with_the_option_that_allows_them(folder, capfd):
    made = report(times(200), mode="trtexec-11: as that tool does")
    write_json(folder / "eleven.profile.json", made.to_dict())
    assert compared("old.profile.json", "eleven.profile.json") == 1
    err = capfd.readouterr().err
    assert "A device, B trtexec-11" in err
    assert "--any-mode" in err
    assert compared("old.profile.json", "eleven.profile.json", "--any-mode") == 0
    assert "warning: the latencies hold different things" in capfd.readouterr().err
