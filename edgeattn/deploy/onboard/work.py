"""A deployment's steps, in a process that goes on when the connection ends.

What it needs is in `plan.json`, what it does is appended to `events.jsonl`, and each step that
ended well leaves a record: begun again, it goes on with the first step that has none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from edgeattn.deploy.onboard import store
from edgeattn.deploy.onboard.failures import explain
from edgeattn.deploy.onboard.folder import FINISHED, Folder, end_holder, read_json, write_json
from edgeattn.deploy.onboard.talk import RefusedError, read_message

EVENTS = "events.jsonl"
_CUDA = "/usr/local/cuda/bin"  # of JetPack; not on the path of a session without a terminal
_LAST_LINES = 60


class Worker:
    """Does the steps of one deployment.

    Args:
        folder: The board's folder.
        name: The deployment's.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.here = folder.deployment(name)
        self._plan = read_json(self.here / "plan.json") or {}
        self._step = "start"

    def run(self) -> None:
        """Do what is left to do, and tell the end of it, good or bad."""
        begin = time.monotonic()
        try:
            self._run()
            self._tell(event="end", status="done", seconds=time.monotonic() - begin)
        except RefusedError as err:
            self._fail(err.message, err.hint)
        except OSError as err:
            what = f"{err.filename or self.here}: {err.strerror or err}"
            self._fail(f"the step {self._step} could not write or read {what}", "")
        except Exception as err:  # the board has no other way to tell
            self._fail(f"the step {self._step} failed: {type(err).__name__}: {err}", "")

    def _run(self) -> None:
        self._begin("unpack")
        for file in self._plan["files"]:
            target = self.here / file["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or store.sha256_of(target) != file["sha256"]:
                store.compose(self.folder, file["pieces"], target, file["sha256"])
        self._write_launcher()
        for step in self._plan["steps"]:
            self._do(step)
        self._begin("activate")
        name = self.here.name
        paths = [self.here / result for result in self._plan["results"]]
        results = {path.name: store.sha256_of(path) for path in paths if path.is_file()}
        if (read_json(self.here / FINISHED) or {}).get("results") != results:
            finished_at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            write_json(
                self.here / FINISHED, {"id": name, "finished_at": finished_at, "results": results}
            )
        self.folder.activate(name)
        self._prune()

    def _do(self, step: dict[str, Any]) -> None:
        """Do one step, unless it was done and what it made is still what it was."""
        self._begin(step["name"])
        record = Path(step["record"])
        if _still_holds(record, step["identity"]):
            self._tell(event="skip", step=step["name"])
            return
        record.parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        with (self.here / f"{step['name']}.log").open("w") as log:
            for command in step["commands"]:
                output = self.here / step["output"] if step.get("output") else None
                self._call(command, log, output)
        for made in step["creates"]:
            if not Path(made).is_file():
                raise RefusedError(f"the step {step['name']} made no {Path(made).name}")
        seconds = time.monotonic() - begin
        hashes = {made: store.sha256_of(Path(made)) for made in step["creates"]}
        write_json(record, {"identity": step["identity"], "seconds": seconds, "creates": hashes})
        self._tell(event="done", step=step["name"], seconds=seconds)

    def _call(self, command: list[str], log: IO[str], output: Path | None) -> None:
        """Run a command; its lines go to the log and to the events as they come.

        Raises:
            RefusedError: If it fails, with what it says of it.
        """
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with contextlib.ExitStack() as stack:
            # What it prints is kept in a file of its own, or is part of the log.
            stdout = stack.enter_context(output.open("w")) if output else None
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout or subprocess.PIPE,
                    stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    cwd=self.here,
                    env=environment(self.folder),
                )
            except FileNotFoundError:
                raise RefusedError(f"there is no {command[0]} on the board") from None
            self._read(child.stderr if stdout else child.stdout, log, last)
        code = child.wait()
        if code:
            raise explain(self._step, code, list(last))

    def _read(self, stream: IO[str] | None, log: IO[str], last: deque[str]) -> None:
        """Pass a command's lines on until its end, and keep the last ones."""
        assert stream is not None
        with stream:
            for line in stream:
                message = read_message(line)
                if message is not None:
                    self._tell(event="progress", step=self._step, **message)
                    continue
                log.write(line)
                log.flush()
                last.append(line.rstrip())
                self._tell(event="line", step=self._step, line=line.rstrip())

    def _write_launcher(self) -> None:
        """Write a program that starts this deployment's edgeattn with this folder's caches.

        Beside it stands `venv`, for programs of the user.
        """
        venv = self.here / "venv"
        if not venv.is_symlink():
            venv.symlink_to(self._plan["environment"])
        settings = "\n".join(
            f"export {name}={shlex.quote(value)}" for name, value in caches(self.folder).items()
        )
        program = f"{self._plan['environment']}/bin/edgeattn"
        temporary = self.here / ".edgeattn"  # it may be in use, by a deployment that is current
        temporary.write_text(f'#!/bin/sh\n{settings}\nexec {shlex.quote(program)} "$@"\n')
        temporary.chmod(0o755)
        temporary.replace(self.here / "edgeattn")

    def _prune(self) -> None:
        """Keep what runs, what ran before, and what both need."""
        kept = {self.folder.linked("current"), self.folder.linked("previous"), self.here.name}
        plans = []
        for path in self.folder.deployments.iterdir():
            if path.name in kept:
                plans.append(read_json(path / "plan.json") or {})
            else:
                shutil.rmtree(path, ignore_errors=True)
        pieces = {p for plan in plans for file in plan.get("files", []) for p in file["pieces"]}
        store.prune(self.folder, pieces)
        environments = {Path(plan["environment"]).name for plan in plans if plan}
        for path in (self.folder.root / "venvs").iterdir():
            if path.name not in environments:
                shutil.rmtree(path, ignore_errors=True)

    def _begin(self, step: str) -> None:
        self._step = step
        self._tell(event="begin", step=step)

    def _fail(self, message: str, hint: str) -> None:
        self._tell(event="end", status="failed", step=self._step, message=message, hint=hint)

    def _tell(self, **values: Any) -> None:
        with (self.here / EVENTS).open("a") as events:
            events.write(json.dumps(values) + "\n")


def caches(folder: Folder) -> dict[str, str]:
    """Name the variables that keep caches, of pip, CUDA and ours, inside the folder."""
    cache = folder.root / "cache"
    return {"XDG_CACHE_HOME": str(cache), "CUDA_CACHE_PATH": str(cache / "cuda")}


def environment(folder: Folder) -> dict[str, str]:
    """Give the variables that a step's commands run with."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    if Path(_CUDA).is_dir() and _CUDA not in path.split(":"):
        path = f"{_CUDA}:{path}"
    return {
        **os.environ,
        **caches(folder),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        # Modules of the system and of the user are imported too; they stay as they are.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "EDGEATTN_PROGRESS": "lines",
    }


def start(folder: Folder, plan: dict[str, Any], program: bytes) -> None:
    """Begin a deployment, or go on with it, in a process of its own session.

    Args:
        folder: The board's folder.
        plan: `id`, `bundle`, `files`, `environment`, `steps`, `results`.
        program: The source of this package, as it was sent.

    Raises:
        RefusedError: If the board is busy.
    """
    here = folder.deployment(plan["id"])
    with folder.locked(plan["id"]) as lock:
        here.mkdir(exist_ok=True)
        write_json(here / "plan.json", plan)
        (here / EVENTS).write_text("")
        (here / "worker.py").write_bytes(program)
        with (here / "worker.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-I", str(here / "worker.py"), str(folder.root), plan["id"]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock],  # it holds the lock from now on
                cwd=here,
            )
        folder.note_holder(plan["id"], child.pid)


def cancel(folder: Folder) -> str:
    """Stop the deployment that runs, with everything it started.

    Returns:
        Its name; empty if none ran.
    """
    busy = folder.busy() or {}
    name = str(busy.get("work", ""))
    here = folder.deployments / name
    if not name or not here.is_dir():
        return ""
    if not end_holder(busy.get("pid"), folder.root / "lock", with_children=True):
        return ""
    end = {"event": "end", "status": "failed", "step": "", "message": "it was cancelled"}
    with (here / EVENTS).open("a") as events:
        events.write(json.dumps({**end, "hint": "deploy again to go on"}) + "\n")
    return name


def _still_holds(record: Path, identity: list[str]) -> bool:
    """Tell whether this very step was done, and what it made is unchanged."""
    values = read_json(record)
    return (
        values is not None
        and values["identity"] == identity
        and all(
            Path(path).is_file() and store.sha256_of(Path(path)) == sha256
            for path, sha256 in values["creates"].items()
        )
    )
