"""Lock clocks for a measurement, and leave the machine as it was found.

Before a setting is changed, how to undo it goes to a file. It is undone at the end of the block, on
an exception, on SIGTERM and SIGHUP; after a crash by whoever locks clocks next, or by
`restore_clocks`. The file is where a reboot removes it, which resets the clocks too.

What is locked: on a Jetson all that `jetson_clocks` locks, within the present power mode; elsewhere
graphics cards at their base clock, which they can keep, and the governor of processors at
`performance`.

References:
    `jetson_clocks --store FILE`, `--restore FILE`: it asks before it overwrites a file.
    CUPTI, Release Notes: `nvidia-smi --lock-gpu-clocks=tdp,tdp`, `--reset-gpu-clocks`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from edgeattn.engine.host import read_text
from edgeattn.errors import BoardError
from edgeattn.profiling.board.sysfs import gpu_folders, numbered

STATE = Path("/run/edgeattn")

_TIMEOUT_S = 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Change(NamedTuple):
    """A setting to change.

    Attributes:
        what: What is locked then, in words.
        apply: How: `{"path", "text"}` to write a file or `{"run"}` to run a command.
        undo: How to go back, in the same form.
    """

    what: str
    apply: dict[str, Any]
    undo: dict[str, Any]


@contextlib.contextmanager
def lock_clocks(root: Path = Path("/"), state: Path = STATE) -> Iterator[tuple[str, ...]]:
    """Lock the machine's clocks for the length of a block.

    Args:
        root: Where `/sys` stands.
        state: Folder that keeps how to undo it.

    Yields:
        What is locked, in words.

    Raises:
        BoardError: If this is not root, there is nothing to lock, a setting is refused, another
            process has the clocks locked, or they cannot be restored.
    """
    if os.geteuid() != 0:
        raise BoardError(
            f"locking clocks needs root; this process runs as user {os.geteuid()}",
            "run the command with sudo, or without locking clocks",
        )
    with _record(state) as record:
        _restore(record)  # what a crash left
        changes = _changes(root, state)
        if not changes:
            raise BoardError(
                "this machine has no clock that can be locked",
                "a virtual machine or container does not see them; measure on the machine itself",
            )
        with _signals_as_exceptions():
            try:
                _write(record, [change.undo for change in changes])
                for change in changes:
                    _do(change.apply)
                yield tuple(change.what for change in changes)
            finally:
                with _signals_blocked():
                    _restore(record)


def restore_clocks(state: Path = STATE) -> bool:
    """Undo what a process that crashed had locked.

    Args:
        state: Folder that keeps how to undo it.

    Returns:
        Whether there was something to undo.

    Raises:
        BoardError: If the clocks are still locked by a process, or cannot be restored.
    """
    try:
        if not (state / "clocks.json").is_file():
            return False
    except PermissionError:  # root's: another user can neither see nor undo what it locked
        return False
    with _record(state) as record:
        return _restore(record)


def _changes(root: Path, state: Path) -> list[Change]:
    """List what can be locked, read before anything is changed."""
    if shutil.which("jetson_clocks"):
        return [_jetson_clocks(state)]
    changes = []
    for gpu in gpu_folders(root):  # a Jetson without its tool, as in a container
        low, high = (read_text(gpu / name) for name in ("min_freq", "max_freq"))
        if low and high:
            path = str(gpu / "min_freq")
            what = f"{gpu.name} at {int(high) / 1e6:.0f} MHz"
            changes.append(Change(what, _writing(path, high), _writing(path, low)))
    if shutil.which("nvidia-smi") and not changes:
        changes.append(
            Change(
                "the graphics cards at their base clock",
                {"run": ["nvidia-smi", "--lock-gpu-clocks=tdp,tdp"]},
                {"run": ["nvidia-smi", "--reset-gpu-clocks"]},
            )
        )
    for policy in numbered(root / "sys/devices/system/cpu/cpufreq", "policy"):
        governor = read_text(policy / "scaling_governor")
        known = (read_text(policy / "scaling_available_governors") or "").split()
        if governor and "performance" in known:
            path = str(policy / "scaling_governor")
            what = f"processors of {policy.name} with the governor performance"
            changes.append(Change(what, _writing(path, "performance"), _writing(path, governor)))
    return changes


def _jetson_clocks(state: Path) -> Change:
    """Let the board's tool store what it finds, lock, and go back to that."""
    stored = state / "jetson_clocks.conf"
    stored.unlink(missing_ok=True)
    _do({"run": ["jetson_clocks", "--store", str(stored)]})
    if not stored.is_file():
        raise BoardError(
            "jetson_clocks --store wrote no file, so that the clocks could not be restored",
            "run `sudo jetson_clocks --show`, which says what it cannot read",
        )
    return Change(
        "the board by jetson_clocks",
        {"run": ["jetson_clocks"]},
        {"run": ["jetson_clocks", "--restore", str(stored)]},
    )


def _writing(path: str, text: str) -> dict[str, Any]:
    return {"path": path, "text": text}


def _do(step: dict[str, Any]) -> None:
    """Write a file or run a command.

    Raises:
        BoardError: If that fails.
    """
    if "path" in step:
        try:
            Path(step["path"]).write_text(step["text"], encoding="utf-8")
        except OSError as err:
            raise BoardError(f"{step['path']} cannot be set to {step['text']}: {err}") from err
        return
    command = " ".join(step["run"])
    try:
        done = subprocess.run(
            step["run"],
            stdin=subprocess.DEVNULL,  # a question is answered with its default
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise BoardError(f"`{command}` failed: {err}") from err
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise BoardError(f"`{command}` failed: {said[-1] if said else f'exit {done.returncode}'}")


@contextlib.contextmanager
def _record(state: Path) -> Iterator[IO[str]]:
    """Open the file that says how to undo what is locked; only one process may have it."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state / "clocks.json").open("a+", encoding="utf-8")
    except OSError as err:
        raise BoardError(f"{state} cannot be written: {err.strerror}", "run as root") from err
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError as err:
            raise BoardError(
                "another process has the clocks locked", "wait until its measurement ends"
            ) from err
        yield file


def _write(record: IO[str], undo: list[dict[str, Any]]) -> None:
    """Put down how to undo what is about to be done, so that it survives a crash."""
    record.seek(0)
    record.truncate()
    if undo:
        json.dump(undo, record)
    record.flush()
    os.fsync(record.fileno())


def _restore(record: IO[str]) -> bool:
    """Undo what the record says, the last first; keep what could not be undone."""
    record.seek(0)
    text = record.read()
    try:
        undo = json.loads(text) if text.strip() else []
    except ValueError:  # cut off by a crash before anything was changed
        undo = []
    failed: list[dict[str, Any]] = []
    complaints: list[str] = []
    for step in reversed(undo):
        try:
            _do(step)
        except BoardError as err:
            failed.insert(0, step)
            complaints.append(err.message)
    _write(record, failed)
    if complaints:
        raise BoardError(
            f"the clocks could not be restored: {'; '.join(complaints)}", "a reboot resets them"
        )
    return bool(undo)


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Let signals that end the process unwind it first, as Ctrl-C does.

    One that is ignored stays so: under `nohup` a terminal that is closed ends nothing.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only that one may ask
        yield
        return
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let nothing, a second Ctrl-C neither, come between."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_SIGNALS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
