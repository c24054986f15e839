"""Rows of results: filed by device and day, each with the commit that was measured."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.rows import append_row


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a source file and an older row, which is where the process works."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    git(tmp_path, "init", "-q")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "source.py").write_text("x = 1\n")
    (tmp_path / "benchmarks" / "results" / "old.jsonl").write_text("{}\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_are_appended_to_a_file_of_the_device_and_day(tmp_path: Path) -> None:
    rows = [
        append_row("b", {"n": n}, {"ms": 1.0}, gpu={"name": "A (GPU)"}, results=tmp_path)
        for n in (1, 2)
    ]
    (path,) = tmp_path.glob("*/*.jsonl")
    assert path.parent.name == "a-gpu"
    assert path.stem == rows[0]["date"]
    assert [json.loads(line)["case"] for line in path.read_text().splitlines()] == [
        {"n": 1},
        {"n": 2},
    ]


def test_a_row_names_the_commit_and_other_rows_do_not_make_it_dirty(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short", "HEAD")
    (checkout / "benchmarks" / "results" / "old.jsonl").write_text("{}\n{}\n")
    assert append_row("b", {}, {}, results=checkout / "out")["commit"] == head
    (checkout / "source.py").write_text("x = 2\n")
    assert append_row("b", {}, {}, results=checkout / "out")["commit"] == f"{head}-dirty"
