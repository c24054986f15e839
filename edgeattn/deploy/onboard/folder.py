"""The folder that everything of a board's deployments is in, and who may change it.

edgeattn.json     what makes it such a folder
lock              held by the one process that deploys or rolls back
store/            what was sent, named by its sha256
venvs/KEY/        Python environments
cache/            compiled plugins, pip's and CUDA's caches
deployments/ID/   engine, report, logs
current, previous links to deployments
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeattn.deploy.onboard.talk import RefusedError

_FORMAT = {"kind": "deployments", "format_version": 1}
FINISHED = "deployment.json"  # in a deployment that was verified and measured


class Folder:
    """A board's deployments.

    Args:
        path: The folder; `~` is the user's home.
    """

    def __init__(self, path: str) -> None:
        self.root = Path(path).expanduser().absolute()
        self.store = self.root / "store"
        self.deployments = self.root / "deployments"

    @property
    def exists(self) -> bool:
        """Whether something was deployed to it, or begun to."""
        return (self.root / "edgeattn.json").is_file()

    def create(self) -> None:
        """Make the folder, or make sure that it is such a one.

        Raises:
            RefusedError: If it is somebody else's, of another version, or not writable.
        """
        try:
            if self.exists:
                if read_json(self.root / "edgeattn.json") != _FORMAT:
                    raise RefusedError(
                        f"{self.root} is a deployment folder of another version of edgeattn",
                        "deploy to another one with --folder",
                    )
            elif self.root.exists() and any(self.root.iterdir()):
                raise RefusedError(
                    f"{self.root} is no deployment folder of edgeattn, and not empty",
                    "deploy to another one with --folder",
                )
            for path in (self.store, self.deployments, self.root / "venvs", self.root / "cache"):
                path.mkdir(parents=True, exist_ok=True)
            if not self.exists:
                write_json(self.root / "edgeattn.json", _FORMAT)
        except OSError as err:
            raise RefusedError(
                f"the folder {self.root} cannot be made: {err.strerror}",
                "deploy to another one with --folder",
            ) from err

    def deployment(self, name: str) -> Path:
        """Find a deployment's folder; a name that would leave ours is refused."""
        if not name or name.startswith(".") or "/" in name:
            raise RefusedError(f"{name!r} is no deployment's name")
        return self.deployments / name

    def linked(self, name: str) -> str:
        """Tell which deployment `current` or `previous` is; empty if none."""
        path = self.root / name
        return path.resolve().name if path.is_symlink() and path.exists() else ""

    def link(self, name: str, deployment: str) -> None:
        """Point `current` or `previous` at a deployment: one rename, whole or not at all."""
        temporary = self.root / f".{name}.{os.getpid()}"
        temporary.symlink_to(Path("deployments") / deployment)
        temporary.replace(self.root / name)
        sync_folder(self.root)

    def activate(self, name: str) -> None:
        """Make a finished deployment the current one; what was current is kept as previous."""
        current = self.linked("current")
        if current == name:
            return
        if current:
            self.link("previous", current)
        self.link("current", name)

    def roll_back(self) -> str:
        """Make the previous deployment the current one, and the other way round.

        Returns:
            What was current.

        Raises:
            RefusedError: If there is no other one.
        """
        current, previous = self.linked("current"), self.linked("previous")
        if not previous or current == previous:
            raise RefusedError(
                "there is nothing to roll back to: "
                + (f"{current} is the only deployment" if current else "nothing is deployed"),
                "deploy another bundle",
            )
        self.link("current", previous)
        if current:
            self.link("previous", current)
        return current

    @contextlib.contextmanager
    def locked(self, work: str) -> Iterator[int]:
        """Hold the folder's lock.

        Args:
            work: What for: the deployment's name, or `rollback`.

        Yields:
            The file that holds the lock; a child process that inherits it holds it too.

        Raises:
            RefusedError: If another process holds it.
        """
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not _lock(handle):
                busy = self.busy() or {"work": "another deployment"}
                raise RefusedError(
                    f"the board is busy with {busy['work']}, since {busy.get('since', 'just now')}",
                    "wait for it, or stop it with --cancel",
                )
            self.note_holder(work, os.getpid())
            yield handle
        finally:
            os.close(handle)

    def note_holder(self, work: str, pid: int) -> None:
        """Write down who holds the lock, for others to read."""
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        write_json(self.root / "lock.json", {"work": work, "pid": pid, "since": since})

    def busy(self) -> dict[str, Any] | None:
        """Tell who holds the lock: `work`, `pid`, `since`; `None` if nobody does."""
        path = self.root / "lock"
        if not path.exists():
            return None
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return read_json(self.root / "lock.json") or {}
        return None

    def describe(self) -> dict[str, Any]:
        """List what is deployed."""
        current, previous = self.linked("current"), self.linked("previous")
        names = sorted(path.name for path in self.deployments.glob("*") if path.is_dir())
        rows = []
        for name in names:
            finished = read_json(self.deployments / name / FINISHED) or {}
            rows.append(
                {
                    "id": name,
                    "is_current": name == current,
                    "is_previous": name == previous,
                    "is_finished": bool(finished),
                    "finished_at": finished.get("finished_at", ""),
                    "bundle": (read_json(self.deployments / name / "plan.json") or {}).get(
                        "bundle", ""
                    ),
                }
            )
        return {"folder": str(self.root), "deployments": rows, "busy": self.busy()}


def end_holder(pid: object, lock: Path, *, with_children: bool) -> bool:
    """End the process that holds a lock.

    Args:
        pid: Its number as it wrote it down; another process may have the number by now.
        lock: The file that it holds open.
        with_children: End all that it started, too.

    Returns:
        Whether there was such a process.
    """
    if not isinstance(pid, int):
        return False
    try:
        handles = [handle.resolve() for handle in Path(f"/proc/{pid}/fd").iterdir()]
        if lock.resolve() not in handles:
            return False
        (os.killpg if with_children else os.kill)(pid, signal.SIGTERM)
    except OSError:  # it ended just now, or is somebody else's
        return False
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; `None` if it is not there or not whole."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all, also if the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as stream:
        json.dump(values, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _lock(handle: int) -> bool:
    """Take the lock; whoever only looks whether it is free holds it for a moment too."""
    for _ in range(20):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def sync_folder(path: Path) -> None:
    """Have a rename on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
