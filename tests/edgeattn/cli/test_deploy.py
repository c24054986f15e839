"""`edgeattn deploy` as a user types it, as far as no board is needed, and its progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeattn.cli.main import run
from edgeattn.cli.progress import working, working_together
from edgeattn.deploy.onboard.talk import read_message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net.zip"], "give a board's address and the bundle"),
        ([], "Missing argument"),
        (["orin", "--rollback", "--cancel"], "exclude each other"),
        (["orin", "net.zip", "--shapes", "x:1xy3"], "x:1xy3"),
        (["orin", "net.zip", "--profile-args", "'open"], "No closing quotation"),
    ],
)
def test_misspelt_commands_are_usage_errors(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["deploy", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_missing_bundle_is_refused_before_any_board_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["deploy", "nobody@nowhere.invalid", str(tmp_path / "net.zip")]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_help_says_that_a_cut_deployment_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["deploy", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "goes on where it was cut off" in printed
    assert "Example: edgeattn deploy me@orin-1 me@orin-2 net.zip" in printed


def test_progress_becomes_messages_where_the_other_end_draws_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEATTN_PROGRESS", "lines")
    with working() as progress:
        assert progress is not None
        for done in range(100):  # within half a second: one line
            progress(done, 100, "layers")
    line, rest = capsys.readouterr().err.split("\n")
    assert rest == ""
    assert read_message(line) == {"done": 0, "total": 100, "what": "layers"}
    monkeypatch.setenv("EDGEATTN_PROGRESS", "")
    with working() as progress:
        assert progress is None


def test_several_boards_are_told_apart_by_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with working_together() as show:
        show("orin-a", 0, None, "upload")
        show("orin-b", 0, None, "upload")
        show("orin-a", 5, 9, "upload")
        show("orin-a", 0, None, "build: layer 1")
        show("orin-a", 1, 3, "build: layer 2")
        print("a library prints")  # noqa: T201 - which must not reach stdout
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[:3] == ["orin-a: upload", "orin-b: upload", "orin-a: build"]
    assert len(said.err.splitlines()) == 4


def test_several_boards_have_a_bar_each_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with working_together() as show:
        show("orin-a", 5, 9, "upload")
        show("orin-b", 0, None, "build: " + "x" * 500)
    printed = capsys.readouterr().err
    assert "orin-a" in printed
    assert json.dumps("x" * 100)[1:-1] not in printed
