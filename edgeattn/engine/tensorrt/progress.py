"""How far a build is, and how it is stopped: TensorRT's progress monitor, and Ctrl-C.

A build is one call that takes minutes and holds its thread. Python delivers Ctrl-C between two of
its own instructions on the main thread, so a build on that thread would not notice it. Here the
build runs on a thread of its own; the caller's thread waits, shows progress and, on Ctrl-C, tells
the monitor to stop the build at its next step.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from edgeattn.engine.tensorrt.imports import import_tensorrt

if TYPE_CHECKING:
    import tensorrt

Progress = Callable[[int, "int | None", str], None]
Result = TypeVar("Result")

_log = logging.getLogger(__name__)
# A wait without an end would sleep through a Ctrl-C that the system gives to another thread.
_POLL_SECONDS = 0.2


class BuildCancelled(Exception):  # noqa: N818  # no error: the caller wanted it
    """Ends the work of a build that was told to stop; never reaches the caller of `watched`."""


class Phases:
    """Which phases of a build are under way, and how far; safe under several threads.

    References:
        NvInfer.h, IProgressMonitor: phases nest, their names are unique while they run, and one may
        finish before all of its steps are done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _Phase] = {}  # in the order in which they began

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Begin a phase, on its own or within another one."""
        with self._lock:
            self._running[name] = _Phase(parent if parent in self._running else None, max(steps, 1))

    def complete(self, name: str, step: int) -> None:
        """Mark a step of a phase, counted from 0, as done."""
        with self._lock:
            if name in self._running:
                phase = self._running[name]
                phase.done = max(phase.done, min(step + 1, phase.steps))

    def finish(self, name: str) -> None:
        """End a phase, and what still runs within it."""
        with self._lock:
            ended = {name}
            for other, phase in self._running.items():
                if phase.parent in ended:
                    ended.add(other)
            for each in ended:
                self._running.pop(each, None)

    def position(self) -> tuple[int, str]:
        """Tell how far the outermost phase is, in percent, and which phase began last."""
        with self._lock:
            if not self._running:
                return 0, ""
            outermost, innermost = next(iter(self._running)), next(reversed(self._running))
            return int(100 * self._fraction(outermost)), innermost

    def _fraction(self, name: str) -> float:
        within = [other for other, phase in self._running.items() if phase.parent == name]
        phase = self._running[name]
        under_way = min(1.0, sum(map(self._fraction, within)))
        return min(1.0, (phase.done + under_way) / phase.steps)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass
class Watch:
    """What the two threads of a watched build share.

    Attributes:
        stop: Set once the build shall stop.
        errors: What was raised where TensorRT called us, which stops the build too.
        positions: Percent, 100 and what is being done, for the caller's thread to show; `None` at
            the end of the work.
    """

    stop: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)
    positions: queue.SimpleQueue[tuple[int, int | None, str] | None] = field(
        default_factory=queue.SimpleQueue
    )

    def report(self, done: int, total: int | None, what: str) -> None:
        """Show progress on the caller's thread."""
        self.positions.put((done, total, what))

    def raise_if_stopped(self) -> None:
        """End the work if it shall stop.

        Raises:
            BuildCancelled: If so, unless something was raised where TensorRT called us: that is
                raised then.
        """
        if self.errors:
            raise self.errors.pop()
        if self.stop.is_set():
            raise BuildCancelled


def make_progress_monitor(watch: Watch) -> tensorrt.IProgressMonitor:
    """Make the monitor of one build: it reports positions, and stops the build when asked.

    The configuration that it is given to keeps it alive.

    Raises:
        MissingDependencyError: If TensorRT is not installed.
    """
    trt = import_tensorrt()
    phases = Phases()

    class ProgressMonitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        """TensorRT's questions, from any of its threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._shown = (-1, "")

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._do(phases.start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._do(phases.complete, phase_name, step)
            return not watch.stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._do(phases.finish, phase_name)

        def _do(self, change: Callable[..., None], *arguments: Any) -> None:
            try:
                change(*arguments)
                position = phases.position()
                if position[1] and position != self._shown:  # there are thousands of steps
                    self._shown = position
                    watch.report(position[0], 100, position[1])
            except BaseException as err:  # the bindings would print it, and drop the build unsaid
                watch.errors.append(err)
                watch.stop.set()

    return ProgressMonitor()


def watched(work: Callable[[Watch], Result], progress: Progress | None = None) -> Result:
    """Do work on another thread, and wait for it so that Ctrl-C stops it.

    The first Ctrl-C, and whatever `progress` raises, tells the work to stop; it is raised here once
    the work has ended. A second Ctrl-C is raised at once, and the work is left behind: TensorRT
    cannot be stopped within a step, and the end of the process is the user's choice.

    Args:
        work: Called with what it is to look at and report to.
        progress: Called on this thread with percent done, 100, and the phase at hand.

    Returns:
        What the work returned.

    Raises:
        BaseException: What the work or `progress` raised, or `KeyboardInterrupt`.
    """
    watch = Watch()
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work(watch))
        except BaseException as err:  # raised again on the waiting thread
            failure.append(err)
        finally:
            watch.positions.put(None)

    thread = threading.Thread(target=run, name="edgeattn-tensorrt-build", daemon=True)
    started = False
    stopped: list[BaseException] = []
    while True:
        try:
            if not started:
                started = True
                thread.start()  # waits for the thread: Ctrl-C may arrive in it
            position = watch.positions.get(timeout=_POLL_SECONDS)
            if position is None:
                break
            if progress is not None and not stopped:
                progress(*position)
        except queue.Empty:
            continue
        except BaseException as err:
            if stopped:
                raise
            stopped.append(err)
            watch.stop.set()
            _log.warning("stopping the build at TensorRT's next step; Ctrl-C again leaves at once")
    # Popped: an error that stays in a local of its own traceback keeps the builder's memory.
    if stopped:
        raise stopped.pop()
    if failure:
        raise failure.pop()
    return outcome[0]
