"""The doctor of a board that nothing is deployed to, and what it leaves out of its report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeattn.cli.main import run
from edgeattn.deploy import remote_doctor
from edgeattn.deploy.anonymous import anonymous
from edgeattn.deploy.deploy import Reach
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.remote_doctor import examine_board
from edgeattn.errors import DeployError
from tests.edgeattn.deploy.sshd import Board, boards

# A line that Python runs when it starts: numpy is not to be found, whatever the machine has.
NO_NUMPY = """\
import sys; sys.meta_path.insert(0, type("Blocked", (), {"find_spec": staticmethod(\
lambda name, *_: (_ for _ in ()).throw(ModuleNotFoundError("No module named 'numpy'")) \
if name == "numpy" else None)}))
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[Board, Path]]:
    with boards(tmp_path, "orin-a") as ((one,), config):
        yield one, config


@pytest.mark.ssh
def test_a_bare_board_is_examined_and_left_as_it_was(
    board: tuple[Board, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = board[0].listing()
    assert run(["doctor", "orin-a", "--json", "--ssh-config", str(board[1])]) == 0
    found = json.loads(capsys.readouterr().out)
    topics = {finding["topic"]: finding for finding in found["findings"]}
    assert {"edgeattn", "Python", "packages", "memory", "disk"} <= topics.keys()
    assert str(board[0].home) not in json.dumps(found)
    assert board[0].listing() == before
    assert not board[0].root.exists()


@pytest.mark.ssh
def test_a_board_whose_python_has_no_numpy_says_what_to_do(board: tuple[Board, Path]) -> None:
    for pth in board[0].home.rglob("board.pth"):
        pth.write_text(NO_NUMPY)
    with pytest.raises(DeployError, match="No module named 'numpy': the board's own Python") as err:
        examine_board("orin-a", Reach(ssh_config=board[1]))
    assert "apt install python3-numpy" in err.value.hint
    with pytest.raises(DeployError, match="the self-test needs edgeattn on the board"):
        examine_board("orin-a", Reach(ssh_config=board[1]), selftest=True)


def test_what_a_deployment_brings_is_not_missing_before_it() -> None:
    missing = Finding("error", "packages", "onnx is not installed", "pip install onnx")
    old = Finding("error", "Python", "3.8; edgeattn needs 3.10", "make an environment")
    fine = Finding("ok", "NumPy", "1.26.4")
    judged = [remote_doctor.before_deployment(f.to_dict()) for f in (missing, old, fine)]
    assert judged[0] == {**missing.to_dict(), "level": "note", "fix": "edgeattn deploy sees to it"}
    assert judged[1:] == [old.to_dict(), fine.to_dict()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 GiB free here (/home/ann/x)", "50 GiB free here (~/x)"),
        ("in /home/ann", "in ~"),
        ("/home/annabel/x and /media/ann/disk", "/home/USER/x and /media/USER/disk"),
        ("/usr/lib/x86_64-linux-gnu (10.3)", "/usr/lib/x86_64-linux-gnu (10.3)"),
        ("NVIDIA Jetson Orin Nano", "NVIDIA Jetson Orin Nano"),
    ],
)
def test_findings_name_nobody(text: str, expected: str) -> None:
    finding = Finding("error", "disk", text, text)
    assert anonymous(finding, Path("/home/ann")) == Finding("error", "disk", expected, expected)


def test_a_home_at_the_root_shortens_nothing() -> None:
    finding = Finding("ok", "disk", "/usr/lib")
    assert anonymous(finding, Path("/")) == finding
