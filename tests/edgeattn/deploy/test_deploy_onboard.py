"""The board's side without a connection: store, folder, steps."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeattn.deploy.onboard import store, talk, work
from edgeattn.deploy.onboard.failures import explain
from edgeattn.deploy.onboard.folder import FINISHED, Folder, read_json, write_json
from edgeattn.deploy.onboard.talk import RefusedError
from edgeattn.deploy.program import bootstrap, program

A, B = b"first piece", b"second"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(str(tmp_path / "edgeattn"))
    made.create()
    return made


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the board says; signals stay the test's own."""
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(store, "say", lambda **values: said.append(values))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return said


def receive(folder: Folder, data: bytes, *pieces: bytes) -> dict[str, Any]:
    stream = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    return store.receive(folder, stream, [[sha256(piece), len(piece)] for piece in pieces])


def test_pieces_arrive_and_become_a_file(folder: Folder, quiet: list[dict[str, Any]]) -> None:
    assert receive(folder, A + B, A, B) == {"bytes": len(A + B)}
    assert quiet[0] == {"offsets": [0, 0]}
    target = folder.root / "whole"
    store.compose(folder, [sha256(B), sha256(A), sha256(B)], target, sha256(B + A + B))
    assert target.read_bytes() == B + A + B
    store.compose(folder, [sha256(A)], target, sha256(A))
    assert target.read_bytes() == A
    assert target.samefile(folder.store / sha256(A))


def test_what_has_arrived_is_kept_and_gone_on_with(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    with pytest.raises(RefusedError, match="the upload ended early"):
        receive(folder, A + B[:2], A, B)
    assert receive(folder, B[2:], A, B) == {"bytes": len(B) - 2}
    assert [said["offsets"] for said in quiet if "offsets" in said] == [[0, 0], [len(A), 2]]
    assert receive(folder, b"", A, B) == {"bytes": 0}


def test_bytes_that_are_not_what_was_promised_are_dropped(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    with pytest.raises(RefusedError, match="did not arrive as it was sent"):
        receive(folder, b"x" * len(A), A)
    assert not list(folder.store.glob(sha256(A) + "*"))
    (folder.store / f"{sha256(A)}.part").write_bytes(A + b"too much")
    assert receive(folder, A, A) == {"bytes": len(A)}


def test_an_empty_piece_needs_no_bytes(folder: Folder, quiet: list[dict[str, Any]]) -> None:
    receive(folder, A, b"", A)
    store.compose(folder, [sha256(b""), sha256(A)], folder.root / "whole", sha256(A))
    assert (folder.root / "whole").read_bytes() == A


@pytest.mark.parametrize("name", ["../../etc/passwd", "ABCD", "0" * 63 + "/"])
def test_a_name_that_is_no_sha256_never_becomes_a_path(
    folder: Folder, name: str, quiet: list[dict[str, Any]]
) -> None:
    stream = io.BufferedReader(io.BytesIO(b""))  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="is no sha256"):
        store.receive(folder, stream, [[name, 3]])


def test_more_than_the_disk_holds_is_refused_before_it_is_sent(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    stream = io.BufferedReader(io.BytesIO(b""))  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match=f"MiB free, and {1 << 41} MiB are needed"):
        store.receive(folder, stream, [[sha256(A), 1 << 60]])
    assert quiet == []


def test_a_piece_that_changed_on_the_disk_is_never_used(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    receive(folder, A, A)
    (folder.store / sha256(A)).write_bytes(A[:-1] + b"!")
    target = folder.root / "whole"
    with pytest.raises(RefusedError, match="was changed on the board's disk"):
        store.compose(folder, [sha256(A)], target, sha256(A))
    with pytest.raises(RefusedError, match="is not on the board"):
        store.compose(folder, [sha256(A)], target, sha256(A))
    receive(folder, A, A)
    with pytest.raises(RefusedError, match="is not what was sent"):
        store.compose(folder, [sha256(A)], target, sha256(B))
    assert not target.exists()
    assert not list(folder.root.glob(".whole*"))


def test_an_upload_that_hangs_makes_way_for_the_next(folder: Folder) -> None:
    source = program()

    def request() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", bootstrap(len(source))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        line = {"ask": "receive", "folder": str(folder.root), "pieces": [[sha256(A), len(A)]]}
        assert child.stdin
        child.stdin.write(source + json.dumps(line).encode() + b"\n" + A[:4])
        child.stdin.flush()
        return child

    with request() as first:
        assert first.stdout
        assert talk.read_message(first.stdout.readline().decode()) == {"offsets": [0]}
        with request() as second:
            assert second.stdout
            said = talk.read_message(first.stdout.readline().decode())
            assert said is not None
            assert "another upload to this board took over" in said["refusal"]
            talked = talk.read_message(second.stdout.readline().decode())
            assert talked == {"offsets": [4]}
            second.kill()


def test_pieces_that_no_deployment_needs_are_dropped(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    lately = b"for a deployment that is about to begin"
    receive(folder, A + B + lately, A, B, lately)
    old, new = folder.store / f"{sha256(b'old')}.part", folder.store / f"{sha256(b'new')}.part"
    for part in (old, new):
        part.write_bytes(b"")
    for path in (old, folder.store / sha256(A), folder.store / sha256(B)):
        os.utime(path, (0, 0))
    store.prune(folder, {sha256(A)})
    names = {path.name for path in folder.store.iterdir()}
    assert names == {sha256(A), sha256(lately), new.name, "receiver", "receiver.json"}


def test_a_deployment_becomes_current_and_the_one_before_is_kept(folder: Folder) -> None:
    for name in ("one", "two"):
        (folder.deployments / name).mkdir()
        folder.activate(name)
    assert (folder.linked("current"), folder.linked("previous")) == ("two", "one")
    folder.activate("two")
    assert folder.linked("previous") == "one"
    assert (folder.root / "current").readlink() == Path("deployments/two")
    assert folder.roll_back() == "two"
    assert (folder.linked("current"), folder.linked("previous")) == ("one", "two")


def test_there_may_be_nothing_to_roll_back_to(folder: Folder) -> None:
    with pytest.raises(RefusedError, match="nothing is deployed"):
        folder.roll_back()
    (folder.deployments / "one").mkdir()
    folder.activate("one")
    with pytest.raises(RefusedError, match="one is the only deployment"):
        folder.roll_back()


def test_current_is_replaced_by_a_rename_and_is_never_missing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (folder.deployments / name).mkdir()
    folder.activate("one")
    seen: list[str] = []
    replace = Path.replace

    def look(path: Path, target: Path) -> Path:
        seen.append(folder.linked("current"))
        done = replace(path, target)
        seen.append(folder.linked("current"))
        return done

    monkeypatch.setattr(Path, "replace", look)
    folder.activate("two")
    assert seen == ["one", "one", "one", "two"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_that_leave_the_folder_are_refused(folder: Folder, name: str) -> None:
    with pytest.raises(RefusedError, match="is no deployment's name"):
        folder.deployment(name)


def test_a_folder_of_another_version_is_refused(folder: Folder) -> None:
    write_json(folder.root / "edgeattn.json", {"kind": "deployments", "format_version": 2})
    with pytest.raises(RefusedError, match="another version of edgeattn"):
        folder.create()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RefusedError, match=r"cannot be made: (Not a directory|File exists)"):
        Folder(str(tmp_path / "file" / "x")).create()


def test_the_lock_is_held_by_one(folder: Folder) -> None:
    assert folder.busy() is None
    with folder.locked("net-1"):
        busy = folder.busy()
        assert busy is not None
        assert (busy["work"], busy["pid"]) == ("net-1", os.getpid())
        with pytest.raises(RefusedError, match="the board is busy with net-1"), folder.locked("x"):
            pass
    with folder.locked("net-2"):
        pass
    assert folder.busy() is None


def prepared(folder: Folder, name: str, *steps: dict[str, Any], **values: Any) -> Path:
    here = folder.deployments / name
    here.mkdir(exist_ok=True)
    environment = folder.root / "venvs" / "abc"
    environment.mkdir(exist_ok=True)
    plan = {"id": name, "files": [], "environment": str(environment), "results": []}
    write_json(here / "plan.json", {**plan, "steps": list(steps), **values})
    return here


def step(here: Path, name: str, *commands: list[str], **values: Any) -> dict[str, Any]:
    record = str(here / f"{name}.done.json")
    plain = {"name": name, "record": record, "commands": list(commands), "creates": []}
    return {**plain, "identity": [word for command in commands for word in command], **values}


def work_on(folder: Folder, name: str) -> list[dict[str, Any]]:
    (folder.deployments / name / work.EVENTS).write_text("")
    work.Worker(folder, name).run()
    lines = (folder.deployments / name / work.EVENTS).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_steps_are_done_once_and_again_if_what_they_made_is_gone(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    count = ["sh", "-c", "echo x >> count; echo made > out"]
    prepared(folder, "net-1", step(here, "build", count, creates=[str(here / "out")]))
    assert work_on(folder, "net-1")[-1]["status"] == "done"
    events = work_on(folder, "net-1")
    assert {"event": "skip", "step": "build"} in events
    assert (here / "count").read_text() == "x\n"
    (here / "out").write_text("changed")
    assert work_on(folder, "net-1")[-1]["status"] == "done"
    assert (here / "count").read_text() == "x\nx\n"
    assert folder.linked("current") == "net-1"


def test_a_step_with_another_command_is_done_again(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    for size in ("1", "2"):
        measure = ["sh", "-c", f"echo {size} > report"]
        made = {"creates": [str(here / "report")]}
        prepared(folder, "net-1", step(here, "profile", measure, **made), results=["report"])
        assert work_on(folder, "net-1")[-1]["status"] == "done"
    assert (here / "report").read_text() == "2\n"
    finished = read_json(here / FINISHED)
    assert finished is not None
    assert finished["results"] == {"report": sha256(b"2\n")}


def test_a_failing_step_ends_it_and_changes_nothing_that_runs(folder: Folder) -> None:
    prepared(folder, "net-1")
    work_on(folder, "net-1")
    here = folder.deployments / "net-2"
    fail = ["sh", "-c", "echo 'Error: no golden output' >&2; echo 'hint: look' >&2; exit 1"]
    prepared(folder, "net-2", step(here, "build", fail), step(here, "profile", ["touch", "ran"]))
    end = work_on(folder, "net-2")[-1]
    assert (end["status"], end["step"]) == ("failed", "build")
    assert (end["message"], end["hint"]) == ("the step build failed: no golden output", "look")
    assert not (here / "ran").exists()
    assert folder.linked("current") == "net-1"
    assert not (here / FINISHED).exists()
    assert "no golden output" in (here / "build.log").read_text()


def test_a_step_that_makes_nothing_of_what_it_should_failed(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    prepared(folder, "net-1", step(here, "build", ["true"], creates=[str(here / "model.engine")]))
    end = work_on(folder, "net-1")[-1]
    assert end["message"] == "the step build made no model.engine"


def test_a_program_that_is_not_there_is_one_sentence(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    prepared(folder, "net-1", step(here, "build", ["no-such-program"]))
    assert "there is no no-such-program" in work_on(folder, "net-1")[-1]["message"]


def test_output_goes_to_its_own_file_and_progress_to_the_events(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    message = json.dumps({"done": 3, "total": 7, "what": "layers"})
    said = ["sh", "-c", f"printf '\\036%s\\n' '{message}' >&2; echo note >&2; echo '{{}}'"]
    prepared(folder, "net-1", step(here, "doctor", said, output="doctor.json"))
    events = work_on(folder, "net-1")
    assert (here / "doctor.json").read_text() == "{}\n"
    assert {"event": "progress", "step": "doctor", **json.loads(message)} in events
    assert [event["line"] for event in events if event["event"] == "line"] == ["note"]
    assert (here / "doctor.log").read_text().splitlines()[1:] == ["note"]


def test_a_killed_step_says_memory_and_others_their_last_line() -> None:
    assert "killed, as the system does when memory" in explain("build", -9, []).message
    assert explain("build", -11, []).message == "the step build was ended by SIGSEGV"
    assert explain("build", 3, ["one", "two", ""]).message.endswith("exit code 3: two")
    assert explain("build", 3, []).message.endswith("it said nothing")


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        # As Python 3.10 of Ubuntu 22.04, pip 22.0 and g++ 11 print them.
        (
            [
                "The virtual environment was not created successfully because ensurepip is not",
                "available.  On Debian/Ubuntu systems, you need to install the python3-venv",
                "Failing command: /home/ann/edgeattn/venvs/x/bin/python3",
            ],
            "the board's Python cannot make environments",
            "sudo apt install python3-venv",
        ),
        (
            [
                "WARNING: Retrying (Retry(total=0)) after connection broken by "
                "'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection>: Failed to "
                "establish a new connection: [Errno 101] Network is unreachable')': /simple/onnx/",
                "ERROR: Could not find a version that satisfies the requirement onnx>=1.17",
                "ERROR: No matching distribution found for onnx>=1.17",
            ],
            "pip reaches no network from the board: No matching distribution found for onnx>=1.17",
            "--wheelhouse",
        ),
        (
            [
                "src/cpp/cuda.hpp:14:10: fatal error: cuda.h: No such file or directory",
                "ERROR: Could not build wheels for pycuda",
            ],
            "for CUDA's headers are missing",
            "nvidia-jetpack",
        ),
        (
            ["OSError: [Errno 28] No space left on device", "ERROR: Could not install packages"],
            "the board's disk is full",
            "--folder",
        ),
        (["ERROR: No matching distribution found for onnx"], "failed: No matching dist", ""),
    ],
)
def test_what_others_say_at_length_becomes_one_sentence(
    lines: list[str], message: str, hint: str
) -> None:
    err = explain("environment", 1, lines)
    assert message in err.message
    assert hint in err.hint


def test_caches_stay_in_the_folder_and_the_launcher_sets_them(folder: Folder) -> None:
    here = prepared(folder, "net-1")
    program = folder.root / "venvs/abc/bin/edgeattn"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$XDG_CACHE_HOME $CUDA_CACHE_PATH $1"\n')
    program.chmod(0o755)
    work_on(folder, "net-1")
    done = subprocess.run([here / "edgeattn", "a b"], capture_output=True, text=True, check=True)
    cache = folder.root / "cache"
    assert done.stdout == f"{cache} {cache}/cuda a b\n"
    assert (here / "venv").resolve() == folder.root / "venvs" / "abc"


def test_what_only_dropped_deployments_needed_is_dropped_with_them(
    folder: Folder, quiet: list[dict[str, Any]]
) -> None:
    receive(folder, A + B, A, B)
    files = [{"name": "bundle.zip", "sha256": sha256(A), "pieces": [sha256(A)]}]
    other = folder.root / "venvs" / "old"
    other.mkdir()
    prepared(folder, "net-1", files=files, environment=str(other))
    work_on(folder, "net-1")
    assert (folder.deployments / "net-1" / "bundle.zip").read_bytes() == A
    files = [{"name": "bundle.zip", "sha256": sha256(B), "pieces": [sha256(B)]}]
    os.utime(folder.store / sha256(A), (0, 0))
    for name in ("net-2", "net-3"):
        prepared(folder, name, files=files)
        assert work_on(folder, name)[-1]["status"] == "done"
    assert sorted(path.name for path in folder.deployments.iterdir()) == ["net-2", "net-3"]
    assert [path.name for path in (folder.root / "venvs").iterdir()] == ["abc"]
    assert [p.name for p in folder.store.iterdir() if len(p.name) == 64] == [sha256(B)]


def test_what_cannot_be_foreseen_is_told_too(folder: Folder) -> None:
    prepared(folder, "net-1", files=[{"name": "x"}])
    end = work_on(folder, "net-1")[-1]
    assert (end["status"], end["step"]) == ("failed", "unpack")
    assert "KeyError" in end["message"]


def test_a_finished_deployment_knows_the_hashes_of_its_results(folder: Folder) -> None:
    here = folder.deployments / "net-1"
    make = step(here, "build", ["sh", "-c", "printf engine > model.engine"])
    prepared(folder, "net-1", make, results=["model.engine", "missing.json"])
    work_on(folder, "net-1")
    finished = read_json(here / FINISHED)
    assert finished is not None
    assert finished["results"] == {"model.engine": sha256(b"engine")}


def test_the_program_needs_neither_edgeattn_nor_a_file_on_the_board() -> None:
    source = program()
    request = json.dumps({"ask": "look", "folder": "/nonexistent/edgeattn"}).encode() + b"\n"
    bare = "import sys;sys.path=[p for p in sys.path if 'site-packages' not in p];"
    code = bare + bootstrap(len(source))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], input=source + request, capture_output=True, check=True
    )
    answer = talk.read_message(done.stdout.decode())
    assert answer is not None
    assert answer["answer"]["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")


@pytest.mark.parametrize("line", ["hello", "", "{}", "\x1e", '\x1e{"a": 1', "\x1e[1]"])
def test_noise_is_no_message(line: str) -> None:
    assert talk.read_message(line) is None
