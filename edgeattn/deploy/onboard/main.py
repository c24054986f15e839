"""The program's entrance: one request in, messages and one answer out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, cast

from edgeattn.deploy.onboard import store, work
from edgeattn.deploy.onboard.facts import read_facts
from edgeattn.deploy.onboard.failures import explain
from edgeattn.deploy.onboard.folder import FINISHED, Folder, read_json
from edgeattn.deploy.onboard.follow import follow
from edgeattn.deploy.onboard.talk import RefusedError, say

_CHUNK = 1 << 17
_EXAMINE = """
import json
from edgeattn.deploy.doctor import examine
print(json.dumps(examine().to_dict()))
"""


def main(program: bytes) -> None:
    """Answer one request of stdin; given arguments, be the worker of a deployment.

    Args:
        program: The source of this package, as it was sent.
    """
    if len(sys.argv) == 3:
        work.Worker(Folder(sys.argv[1]), sys.argv[2]).run()
        return
    request = json.loads(sys.stdin.buffer.readline())
    folder = Folder(request.pop("folder"))
    try:
        answer = _ANSWERS[request.pop("ask")](folder, program, **request)
        say(answer=answer)
    except RefusedError as err:
        say(refusal=err.message, hint=err.hint)
    except BrokenPipeError:  # nobody is there any more
        sys.stderr.close()
    except OSError as err:
        where = f" ({err.filename})" if err.filename else ""
        say(refusal=f"the board says: {err.strerror or err}{where}", hint="")


def _look(folder: Folder, program: bytes) -> dict[str, Any]:
    return {"folder": str(folder.root), **read_facts(folder.root)}


def _status(folder: Folder, program: bytes) -> dict[str, Any]:
    if not folder.exists:
        return {"folder": str(folder.root), "deployments": [], "busy": None}
    return folder.describe()


def _receive(folder: Folder, program: bytes, pieces: list[list[Any]]) -> dict[str, Any]:
    folder.create()
    return store.receive(folder, cast(BufferedReader, sys.stdin.buffer), pieces)


def _start(folder: Folder, program: bytes, plan: dict[str, Any]) -> dict[str, Any]:
    folder.create()
    busy = folder.busy()
    if not busy or busy.get("work") != plan["id"]:  # else it is running, and is followed
        work.start(folder, plan, program)
    return {}


def _follow(folder: Folder, program: bytes, name: str, offset: int) -> dict[str, Any]:
    return follow(folder, name, offset)


def _fetch(folder: Folder, program: bytes, name: str, files: list[str]) -> dict[str, Any]:
    """Send a deployment's files; those that are not there are left out."""
    here = folder.deployment(name)
    found = {}
    for file in files:
        path = here / Path(file).name
        if not path.is_file():
            continue
        say(file=file)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                say(data=base64.b64encode(chunk).decode())
        found[file] = store.sha256_of(path)
    return {"files": found}


def _roll_back(folder: Folder, program: bytes) -> dict[str, Any]:
    _require(folder)
    with folder.locked("rollback"):
        target = folder.linked("previous")
        finished = read_json(folder.deployments / target / FINISHED) if target else None
        for file, sha256 in (finished or {}).get("results", {}).items():
            path = folder.deployments / target / file
            if not path.is_file() or store.sha256_of(path) != sha256:
                raise RefusedError(
                    f"the previous deployment {target} is damaged: {file} is not what was verified",
                    "deploy its bundle again",
                )
        before = folder.roll_back()
    return {"before": before, "current": folder.linked("current")}


def _cancel(folder: Folder, program: bytes) -> dict[str, Any]:
    _require(folder)
    return {"cancelled": work.cancel(folder)}


def _examine(folder: Folder, program: bytes, size: int, selftest: bool) -> dict[str, Any]:
    """Examine the board: with what is deployed, else with the source that follows."""
    source = sys.stdin.buffer.read(size)
    launcher = folder.root / "current" / "edgeattn"
    if launcher.is_file():
        command = [str(launcher), "doctor", "--json", *["--selftest"] * selftest]
        return {"deployed": True, **_run_doctor(command, {})}
    if selftest:
        raise RefusedError(
            "the self-test needs edgeattn on the board, and nothing is deployed there",
            "deploy a bundle first",
        )
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as name:
        with zipfile.ZipFile(BytesIO(source)) as archive:
            archive.extractall(name)
        found = _run_doctor([sys.executable, "-c", _EXAMINE], {"PYTHONPATH": name})
    return {"deployed": False, **found}


def _run_doctor(command: list[str], variables: dict[str, str]) -> dict[str, Any]:
    """Run the doctor; it exits with 1 if it finds errors, and answers all the same."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables},
    )
    try:
        values = json.loads(done.stdout)
    except ValueError:
        raise explain("doctor", done.returncode, done.stderr.splitlines()) from None
    return {"examination": values}


def _require(folder: Folder) -> None:
    if not folder.exists:
        raise RefusedError(f"nothing is deployed in {folder.root}", "deploy a bundle first")


_ANSWERS: dict[str, Callable[..., dict[str, Any]]] = {
    "look": _look,
    "status": _status,
    "receive": _receive,
    "start": _start,
    "follow": _follow,
    "fetch": _fetch,
    "rollback": _roll_back,
    "cancel": _cancel,
    "examine": _examine,
}
