"""A test that needs hardware is skipped without it, and fails where the hardware was promised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def _run_marked_test(folder: Path, marker: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_marked.py").write_text(
        f"import pytest\n\n@pytest.mark.{marker}\ndef test_marked():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-rs", *options, str(folder)]
    (folder / "pytest.ini").write_text(f"[pytest]\nmarkers = {marker}\n")
    # A path with nothing on it holds no browser: the one probe that a test can make fail.
    environment = {**os.environ, "PATH": str(folder), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_test_is_skipped_where_its_hardware_is_missing(tmp_path: Path) -> None:
    process = _run_marked_test(tmp_path, "browser")
    assert process.returncode == 0
    assert "1 skipped" in process.stdout
    assert "needs browser" in process.stdout


def test_a_promised_marker_turns_the_skip_into_a_failure(tmp_path: Path) -> None:
    process = _run_marked_test(tmp_path, "browser", "--require", "jetson,browser")
    assert process.returncode == 1
    assert "--require names browser, but it is not there" in process.stdout


def test_other_markers_are_none_of_its_business(tmp_path: Path) -> None:
    process = _run_marked_test(tmp_path, "slow", "--require", "browser")
    assert process.returncode == 0
    assert "1 passed" in process.stdout


@pytest.mark.parametrize("value", ["cuda", "gpu,cuda"])
def test_a_marker_without_a_probe_cannot_be_promised(tmp_path: Path, value: str) -> None:
    process = _run_marked_test(tmp_path, "slow", "--require", value)
    assert process.returncode == 4
    assert "--require names cuda; expected some of gpu, tensorrt, jetson" in process.stderr
