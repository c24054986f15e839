"""A case in a process of its own: what it leaks, prints or crashes on is no other case's concern.

The child reads one task from stdin and writes one answer to what was its stdout; everything else
that it or a library prints goes to its log. It ends when its stdin closes: no child outlives a
sweep that was killed, nor do clocks that it had locked stay so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgeattn.errors import EdgeAttnError
from edgeattn.sweep.cases import Case

_LAST_WORDS = 2000
# What a child may take to restore clocks when its parent is gone.
_LAST_S = 60.0


def run_task(
    task: Mapping[str, Any],
    log: Path,
    *,
    folder: Path | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Run one task in a child process.

    Args:
        task: `name` (`prepare` or `measure`), `case`, and the arguments of that function.
        log: File that the child's messages are added to.
        folder: The child's working folder, where modules of the user are found.
        timeout_s: Kill the child after this time.

    Returns:
        `{"result": …}`, or `{"error": {"kind", "message", "hint", "step"}}`. It raises nothing for
        what the child does.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        begin = stream.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "edgeattn.sweep.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            cwd=folder,
        )
        answer, is_late = _converse(child, json.dumps(task).encode() + b"\n", timeout_s)
    try:
        values: dict[str, Any] = json.loads(answer)
    except ValueError:
        return {"error": _death(child.returncode, log, begin, timeout_s if is_late else None)}
    return values


def _converse(
    child: subprocess.Popen[bytes], task: bytes, timeout_s: float | None
) -> tuple[bytes, bool]:
    """Give a child its task and wait for the answer, its stdin open all the while."""
    assert child.stdin is not None
    assert child.stdout is not None
    is_late = threading.Event()

    def kill() -> None:
        is_late.set()
        child.kill()

    timer = threading.Timer(timeout_s, kill) if timeout_s else None
    try:
        if timer:
            timer.start()
        with contextlib.suppress(BrokenPipeError):  # it died at once; its log says why
            child.stdin.write(task)
            child.stdin.flush()
        answer = child.stdout.read()
        child.wait()
    finally:
        if timer:
            timer.cancel()
        child.kill()  # an interruption; a child that has ended feels nothing
        child.wait()
        child.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
    return answer, is_late.is_set()


def _death(code: int, log: Path, begin: int, timeout_s: float | None) -> dict[str, str]:
    """Say how a child ended that gave no answer, with the last of what it printed."""
    text = log.read_bytes()[begin:].decode(errors="replace")[-_LAST_WORDS:]
    steps = [line[len(_STEP) :] for line in text.splitlines() if line.startswith(_STEP)]
    if timeout_s is not None:
        message = f"the case took longer than {timeout_s:g} s"
    elif code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        message = f"the case's process was killed by {name}{memory}"
    else:
        message = f"the case's process ended with exit code {code} and no answer"
    hint = f"its log: {log.name}"
    step = steps[-1] if steps else ""
    return {"kind": "ProcessDied", "message": message, "hint": hint, "step": step, "log": text}


_STEP = "step: "


def _main() -> NoReturn:
    """Be the child."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native libraries print too
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    steps = ["start"]

    def step(name: str) -> None:
        steps.append(name)
        sys.stderr.write(f"{_STEP}{name}\n")
        sys.stderr.flush()

    try:
        values: dict[str, Any] = {"result": _do(task, step)}
    except Exception as err:
        traceback.print_exc()
        is_ours = isinstance(err, EdgeAttnError)
        values = {
            "error": {
                "kind": type(err).__name__,
                "message": err.message if isinstance(err, EdgeAttnError) else str(err),
                "hint": err.hint if isinstance(err, EdgeAttnError) else "",
                "step": steps[-1],
                "is_bug": not is_ours and not isinstance(err, MemoryError),
            }
        }
    except SystemExit:  # the parent is gone, and what was locked is not any more
        os._exit(1)
    answer.write(json.dumps(values).encode())
    answer.flush()
    sys.stderr.flush()
    # Nothing is left to do, and a library's threads or destructors may hang or crash.
    os._exit(0)


def _do(task: Mapping[str, Any], step: Any) -> dict[str, Any]:
    case = Case(**task["case"])
    if task["name"] == "prepare":
        from edgeattn.sweep.prepare import prepare

        return dict(prepare(case, Path(task["graphs_folder"]), step))
    from edgeattn.sweep.measure import measure_case

    engine, report = Path(task["engine"]), Path(task["report"])
    return measure_case(case, task["graphs"], engine, report, step)


def _die_with_parent() -> NoReturn:
    while os.read(0, 4096):
        pass
    # It ends at once, or where clocks are locked unwinds the main thread, which restores them.
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_S)
    os._exit(1)


if __name__ == "__main__":
    _main()
