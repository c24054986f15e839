"""Boards over SSH: a real server on loopback, cut, restarted and flashed anew."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeattn.artifacts import sha256_of_file
from edgeattn.deploy.pieces import cut
from edgeattn.deploy.remote import RemoteBoard
from edgeattn.deploy.ssh import Connection, ConnectionLostError, explain
from edgeattn.errors import DeployError
from tests.edgeattn.deploy.sshd import Board, boards, wait_until

MIB = 1 << 20


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[Board, Path]]:
    with boards(tmp_path, "orin-a") as ((one,), config):
        yield one, config


@pytest.fixture
def reach(board: tuple[Board, Path]) -> Iterator[Callable[..., RemoteBoard]]:
    with Connection("orin-a", board[1]) as connection:

        def make(folder: str = "~/edgeattn-deployed", **arguments: Any) -> RemoteBoard:
            return RemoteBoard(connection, folder, **{"retry_s": (0.05, 0.2, 0.5), **arguments})

        yield make


def plan(board: Board, file: Path, *commands: list[str], name: str = "net-1") -> dict[str, Any]:
    """Plan a deployment of one file, whose one step runs the commands and makes `model.engine`."""
    here = board.root / "deployments" / name
    step = {
        "name": "build",
        "record": str(here / "build.done.json"),
        "identity": ["build"],
        "commands": list(commands),
        "creates": [str(here / "model.engine")],
    }
    pieces = cut(file)
    return {
        "id": name,
        "bundle": file.name,
        "environment": str(board.root / "venvs" / "none"),
        "files": [
            {
                "name": "bundle.zip",
                "sha256": sha256_of_file(file),
                "pieces": [piece.sha256 for piece in pieces],
            }
        ],
        "steps": [step],
        "results": ["model.engine"],
    }


def send(remote: RemoteBoard, planned: dict[str, Any], file: Path) -> dict[str, Any]:
    remote.upload(cut(file))
    remote.start(planned)
    return remote.follow(planned["id"], lambda event: None)


def random_file(folder: Path, size: int, name: str = "net.zip") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.ssh
def test_a_wrong_host_key_is_refused_in_one_sentence(board: tuple[Board, Path]) -> None:
    one, config = board
    one.new_host_key()
    one.stop()
    one.start()
    with Connection("orin-a", config) as connection:
        remote = RemoteBoard(connection, "~/edgeattn-deployed")
        with pytest.raises(
            DeployError, match=r"^the host key of orin-a is another one than"
        ) as err:
            remote.look()
    known_hosts = one.home.parent / "known_hosts"
    assert f"remove line 1 of {known_hosts}, log in once" in err.value.hint
    assert not isinstance(err.value, ConnectionLostError)  # nothing to try again
    assert not one.root.exists()


@pytest.mark.ssh
def test_an_unknown_host_key_is_refused_whatever_the_config_says(
    board: tuple[Board, Path],
) -> None:
    one, config = board
    assert "StrictHostKeyChecking no" in one.config
    one.be_unknown()
    refused = pytest.raises(DeployError, match="the host key of orin-a is not known")
    with Connection("orin-a", config) as connection, refused as err:
        RemoteBoard(connection, "~/edgeattn-deployed").look()
    assert "compare the fingerprint" in err.value.hint


@pytest.mark.ssh
def test_a_key_that_the_board_does_not_accept_is_said_so(board: tuple[Board, Path]) -> None:
    one, config = board
    (one.home.parent / "client.pub").write_text("")
    with (
        Connection("orin-a", config) as connection,
        pytest.raises(DeployError, match=r"orin-a accepts no login of yours; it offers publickey"),
    ):
        RemoteBoard(connection, "~/edgeattn-deployed").look()


@pytest.mark.ssh
def test_a_board_that_is_off_and_one_without_python_are_told_apart(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard]
) -> None:
    with pytest.raises(DeployError, match="there is no such Python on orin-a") as err:
        reach(python="python3.99").look()
    assert "--python" in err.value.hint
    board[0].stop()
    with pytest.raises(DeployError, match="orin-a does not answer: connection refused"):
        reach().look()


@pytest.mark.ssh
def test_a_board_is_described_and_nothing_is_left_on_it(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard]
) -> None:
    before = board[0].listing()
    found = reach().look()
    assert found["folder"] == str(board[0].root)
    assert reach().status() == {"folder": str(board[0].root), "deployments": [], "busy": None}
    assert found["machine"] == os.uname().machine
    assert found["free_bytes"] > 0
    assert board[0].listing() == before
    assert not board[0].root.exists()


@pytest.mark.ssh
def test_an_upload_that_is_cut_goes_on_where_it_was(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 24 * MIB + 7)
    cuts: list[int] = []
    said: list[str] = []

    def progress(done: int, total: int) -> None:
        if not cuts and done > total // 2:
            # What is on its way in pipes and sockets is lost with the connection.
            wait_until(lambda: part_size(board[0]) > total // 4)
            cuts.append(part_size(board[0]))
            assert board[0].cut() > 0

    sent = reach(on_retry=said.append).upload(cut(file), progress)
    assert len(said) == 1
    assert "connection to orin-a" in said[0]
    assert file.stat().st_size <= sent <= 2 * file.stat().st_size - cuts[0]
    stored = board[0].root / "store" / sha256_of_file(file)
    assert stored.read_bytes() == file.read_bytes()
    assert reach().upload(cut(file)) == 0


@pytest.mark.ssh
def test_an_upload_whose_board_stays_away_is_resumed_by_the_next_command(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 16 * MIB)

    def progress(done: int, total: int) -> None:
        if done > total // 2 and part_size(board[0]) > total // 4:
            board[0].stop()

    with pytest.raises(DeployError, match="orin-a") as err:
        reach().upload(cut(file), progress)
    assert "the same command goes on" in err.value.hint
    held = part_size(board[0])
    assert held > 4 * MIB
    board[0].start()
    assert 0 < reach().upload(cut(file)) <= file.stat().st_size - held


@pytest.mark.ssh
def test_a_step_goes_on_while_the_connection_is_cut(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 1000)
    script = "echo begun; sleep 1; echo ended; echo engine > model.engine"
    planned = plan(board[0], file, ["sh", "-c", script])
    remote = reach()
    remote.upload(cut(file))
    remote.start(planned)
    events: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        events.append(event)
        if event.get("line") == "begun":
            assert board[0].cut() > 0

    end = remote.follow("net-1", on_event)
    assert end["status"] == "done"
    lines = [event["line"] for event in events if event["event"] == "line"]
    assert lines == ["begun", "ended"]  # each once
    assert (board[0].root / "current" / "model.engine").read_text() == "engine\n"


@pytest.mark.ssh
def test_two_deployments_at_once_are_refused_and_the_same_one_is_followed(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 1000)
    wait = "while [ ! -e go ]; do sleep 0.05; done; echo > model.engine"
    planned = plan(board[0], file, ["sh", "-c", wait])
    remote = reach()
    remote.upload(cut(file))
    remote.start(planned)
    with pytest.raises(DeployError, match=r"^the board is busy with net-1, since 20") as err:
        remote.start(plan(board[0], file, ["true"], name="net-2"))
    assert "--cancel" in err.value.hint
    with pytest.raises(DeployError, match="the board is busy with net-1"):
        remote.roll_back()
    remote.start(planned)  # the same command, given again
    (board[0].root / "deployments" / "net-1" / "go").touch()
    assert remote.follow("net-1", lambda event: None)["status"] == "done"


@pytest.mark.ssh
def test_a_deployment_that_is_cancelled_leaves_what_was_current(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 1000)
    remote = reach()
    assert send(remote, plan(board[0], file, ["touch", "model.engine"]), file)["status"] == "done"
    slow = plan(board[0], file, ["sleep", "600"], name="net-2")
    remote.start(slow)
    ends: list[dict[str, Any]] = []
    follower = threading.Thread(
        target=lambda: ends.append(remote.follow("net-2", lambda event: None))
    )
    follower.start()
    wait_until(lambda: "build" in (board[0].root / "deployments/net-2/events.jsonl").read_text())
    assert remote.cancel() == "net-2"
    follower.join(timeout=10)
    assert (ends[0]["status"], ends[0]["message"]) == ("failed", "it was cancelled")
    assert (board[0].root / "current").resolve().name == "net-1"
    assert remote.cancel() == ""
    assert remote.status()["busy"] is None


@pytest.mark.ssh
def test_rolling_back_and_forth_swaps_two_links_and_checks_what_they_point_at(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 1000)
    remote = reach()
    make = ["sh", "-c", "basename $PWD > model.engine"]
    for name in ("net-1", "net-2", "net-3"):
        assert send(remote, plan(board[0], file, make, name=name), file)["status"] == "done"
    deployed = remote.status()
    assert [row["id"] for row in deployed["deployments"]] == ["net-2", "net-3"]  # one is kept
    assert remote.roll_back() == {"before": "net-3", "current": "net-2"}
    assert (board[0].root / "current" / "model.engine").read_text() == "net-2\n"
    assert remote.roll_back() == {"before": "net-2", "current": "net-3"}
    (board[0].root / "deployments/net-2/model.engine").write_text("net-9\n")
    with pytest.raises(DeployError, match=r"net-2 is damaged: model.engine is not what was"):
        remote.roll_back()
    assert (board[0].root / "current").resolve().name == "net-3"


@pytest.mark.ssh
def test_files_come_back_as_they_are_and_missing_ones_are_left_out(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    file = random_file(tmp_path, 3 * MIB + 1)
    remote = reach()
    send(remote, plan(board[0], file, ["cp", "bundle.zip", "model.engine"]), file)
    back = tmp_path / "back"
    back.mkdir()
    assert remote.fetch("net-1", ["model.engine", "nothing.json"], back) == [back / "model.engine"]
    assert (back / "model.engine").read_bytes() == file.read_bytes()


@pytest.mark.ssh
def test_a_folder_of_somebody_else_is_left_alone(
    board: tuple[Board, Path], reach: Callable[..., RemoteBoard], tmp_path: Path
) -> None:
    before = board[0].listing()
    file = random_file(tmp_path, 10)
    with pytest.raises(DeployError, match="is no deployment folder of edgeattn, and not empty"):
        reach("~").upload(cut(file))
    with pytest.raises(DeployError, match="nothing is deployed in"):
        reach("~").roll_back()
    assert board[0].listing() == before


@pytest.mark.parametrize("address", ["", "-oProxyCommand=touch x", "a b", "me@host name"])
def test_what_is_no_address_is_never_given_to_ssh(address: str) -> None:
    with pytest.raises(DeployError, match="is no address of a board"):
        Connection(address)


@pytest.mark.ssh
def test_a_config_that_ssh_cannot_read_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  NoSuchOption yes\n")
    with pytest.raises(DeployError, match="ssh cannot read its config for orin"):
        Connection("orin", config)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        # As OpenSSH 9.2 prints them.
        (
            "ssh: Could not resolve hostname orin-x: Name or service not known",
            "there is no host orin-x",
        ),
        ("ssh: connect to host 10.0.0.9 port 22: No route to host", "does not answer: no route"),
        (
            "ssh: connect to host o port 22: Connection timed out",
            "does not answer: connection timed",
        ),
        (
            "me@orin: Permission denied (publickey,password).",
            "me@orin accepts no login of yours; it offers publickey,password",
        ),
        ("Host key verification failed.", "the host key of me@orin is not known"),
        ("client_loop: send disconnect: Broken pipe", "the connection to me@orin was lost: client"),
        ("", "the connection to me@orin was lost"),
    ],
)
def test_what_ssh_says_becomes_one_sentence(said: str, message: str) -> None:
    err = explain("me@orin", said)
    assert message in err.message
    assert "\n" not in err.message


@pytest.mark.ssh
def test_one_login_serves_all_requests_and_ends_with_them(board: tuple[Board, Path]) -> None:
    with Connection("orin-a", board[1]) as connection:
        remote = RemoteBoard(connection, "~/edgeattn-deployed")
        for _ in range(3):
            remote.look()
        log = (board[0].home.parent / "sshd.log").read_text()
        assert log.count("Accepted publickey") == 1
    wait_until(lambda: not board[0].sessions())


@pytest.mark.ssh
def test_a_login_that_the_users_config_shares_is_used_as_it_is(
    board: tuple[Board, Path], tmp_path: Path
) -> None:
    shared = Path("/tmp") / f"edgeattn-test-{os.getpid()}"  # a socket's path has to be short
    with board[1].open("a") as config:
        config.write(f"Host *\n  ControlMaster auto\n  ControlPath {shared}\n  ControlPersist 5\n")
    with Connection("orin-a", board[1]) as connection:
        RemoteBoard(connection, "~/edgeattn-deployed").look()
    assert shared.exists()  # not ended: it is not ours
    subprocess.run(
        ["ssh", "-F", str(board[1]), "-O", "exit", "orin-a"], check=True, capture_output=True
    )


def part_size(board: Board) -> int:
    return sum(path.stat().st_size for path in board.root.glob("store/*.part"))
