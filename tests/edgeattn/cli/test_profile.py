"""`profile` on the command line: what it prints and writes, and what is made of a report later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgeattn
from edgeattn.cli.main import run
from edgeattn.cli.report_text import print_report
from edgeattn.profiling.board.energy import EnergyPerQuery
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.verdict import Verdict
from edgeattn.profiling.board.watch import BoardState
from tests.graphs import classifier, save

QUICK = ["--iterations", "5", "--duration", "0", "--warm-up", "0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    edgeattn.build(save(classifier(1), tmp_path / "net.onnx"), threads=1)
    return tmp_path


def done(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    code = run(["profile", "net.engine", *QUICK, *words])
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_every_file_asked_for_is_written_and_told(folder, capfd):
    files = ["r.json", "r.html", "t.json", "times.json", "layers.json"]
    options = ["-o", "--html", "--trace", "--exportTimes", "--exportProfile"]
    words = [word for pair in zip(options, files, strict=True) for word in pair]
    out = done(capfd, *words)
    assert [line for line in out.splitlines() if line.startswith("wrote")] == [
        f"wrote {file}" for file in files
    ]
    assert json.loads(Path("r.json").read_text())["layers"]["rows"]
    assert "module" in out  # layers are measured where a file is written


def test_layers_and_board_are_measured_as_asked(folder, capfd):
    assert "module" not in done(capfd)
    assert "module" in done(capfd, "--layers")
    done(capfd, "-o", "r.json", "--no-layers", "--no-board")
    values = json.loads(Path("r.json").read_text())
    assert (values["layers"], values["board"], values["verdict"]) == (None, None, None)


def test_json_has_the_report_without_what_is_long(folder, capfd):
    values = json.loads(done(capfd, "--json", "--layers", "--sustained", "0.003"))
    assert values["verdict"]["word"] in ("stable", "throttled", "unknown")
    assert values["layers"]["rows"]
    assert values["sustained"]["minutes"]
    assert not {"exportTimes", "exportProfile", "board"} & values.keys()
    assert "board" not in values["sustained"]


def test_long_runs_and_builds_are_printed(folder, capfd):
    out = done(capfd, "--sustained", "0.003", "--repeat-builds", "1")
    assert "minute" in out
    assert "before, kept" in out


def test_what_makes_no_sense_is_refused_in_a_sentence(folder, capfd):
    for words, said in (
        (["--no-layers", "--export-profile", "p.json"], "the layers are to be written"),
        (["--html", "net.engine"], "net.engine would be two files at once"),
        (["--idle", "inf"], "idle_s is inf"),
    ):
        assert run(["profile", "net.engine", *QUICK, *words]) == 1
        assert capfd.readouterr().err.startswith(f"Error: {said}")
    assert run(["profile", "net.engine", "--sustained", "-1"]) == 2


@pytest.mark.parametrize(
    ("energy", "no_energy", "said"),
    [
        (None, "no power rail was read", "energy      not known: no power rail was read"),
        (
            EnergyPerQuery(31.84, 0.41, 52.1, 4630.0, 11890.0, "VDD_IN", "", 140, 3.0),
            "",
            "energy      31.84 ± 0.41 mJ/query, VDD_IN, above 4.63 W at rest",
        ),
    ],
)
def test_verdict_energy_and_locked_clocks_are_printed(folder, capfd, energy, no_energy, said):
    report = edgeattn.profile("net.engine", iterations=5, duration_s=0, warm_up_ms=0, board=False)
    state = BoardState(BoardTrace(), Verdict("throttled", ("thermal", "power")), energy, no_energy)
    print_report(replace(report, board=state, locked_clocks=("the board by jetson_clocks",)))
    lines = capfd.readouterr().out.splitlines()
    assert "verdict     throttled: thermal; power" in lines
    assert "locked      the board by jetson_clocks" in lines
    assert said in lines


@pytest.mark.parametrize("notation", ["html", "trace", "export-times", "export-profile"])
def test_what_was_not_written_is_made_of_the_report(folder, capfd, notation):
    done(capfd, "-o", "r.json", f"--{notation}", "there")
    assert run(["inspect", "r.json", "--as", notation, "-o", "again"]) == 0
    assert Path("again").read_bytes() == Path("there").read_bytes()


def test_making_something_of_a_report_has_its_refusals(folder, capfd):
    done(capfd, "-o", "r.json", "--no-layers")
    report = Path("r.json").read_bytes()
    assert run(["inspect", "r.json", "--as", "html"]) == 2
    assert run(["inspect", "r.json", "--as", "html", "-o", "x", "--json"]) == 2
    for words, said in (
        (["net.engine", "--as", "html", "-o", "x.html"], "net.engine is not"),
        (["r.json", "--as", "html", "-o", "r.json"], "r.json would be two files at once"),
        (["r.json", "--as", "export-profile", "-o", "p.json"], "p.json cannot be written"),
    ):
        capfd.readouterr()
        assert run(["inspect", *words]) == 1
        assert said in capfd.readouterr().err
    assert Path("r.json").read_bytes() == report
    assert not Path("p.json").exists()
