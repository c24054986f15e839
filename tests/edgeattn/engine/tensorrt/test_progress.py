"""Phases of a build, and a build that runs on a thread of its own and can be stopped.

The monitor itself is tried on NVIDIA's bindings: `progress_contract.py`.
"""

from __future__ import annotations

import _thread
import logging
import threading
import time

import pytest

from edgeattn.engine.tensorrt.progress import BuildCancelled, Phases, Watch, watched


def test_nested_phases_add_up():
    phases = Phases()
    assert phases.position() == (0, "")
    phases.start("all", None, 2)
    phases.complete("all", 0)
    phases.start("half", "all", 5)
    phases.start("tenth", "half", 2)
    phases.complete("tenth", 0)
    assert phases.position() == (55, "tenth")
    phases.finish("half")  # and with it what it holds
    assert phases.position() == (50, "all")
    phases.finish("all")
    assert phases.position() == (0, "")


def test_a_step_reported_late_does_not_lead_back():
    phases = Phases()
    phases.start("all", None, 10)
    phases.complete("all", 7)
    phases.complete("all", 2)
    assert phases.position()[0] == 80


def test_more_steps_than_announced_are_no_more_than_all():
    phases = Phases()
    phases.start("all", None, 0)
    phases.start("part", "all", 1)
    phases.complete("all", 9)
    phases.complete("part", 3)
    assert phases.position() == (100, "part")


def test_the_result_comes_back_and_progress_is_shown_on_the_callers_thread():
    seen = []

    def work(watch: Watch) -> str:
        watch.report(1, 2, threading.current_thread().name)
        return "engine"

    def progress(done: int, total: int | None, what: str) -> None:
        seen.append((done, total, what, threading.current_thread()))

    assert watched(work, progress) == "engine"
    assert seen == [(1, 2, "edgeattn-tensorrt-build", threading.current_thread())]


def test_what_the_work_raises_is_raised_here():
    def work(watch: Watch) -> None:
        watch.report(1, None, "before")
        raise ZeroDivisionError("in the work")

    seen = []
    with pytest.raises(ZeroDivisionError, match="in the work"):
        watched(work, lambda *position: seen.append(position))
    assert seen == [(1, None, "before")]


def stoppable(watch: Watch, ended: list[str]) -> None:
    """Work on until it shall stop, as a build does from step to step."""
    assert watch.stop.wait(timeout=20)
    ended.append("stopped")
    watch.raise_if_stopped()


def test_ctrl_c_stops_the_work_and_is_raised_when_it_has_ended(caplog):
    ended: list[str] = []

    def work(watch: Watch) -> None:
        _thread.interrupt_main()
        stoppable(watch, ended)

    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        watched(work)
    assert ended == ["stopped"]
    assert "stopping the build at TensorRT's next step" in caplog.text


def test_a_second_ctrl_c_does_not_wait():
    release = threading.Event()

    def work(watch: Watch) -> None:
        _thread.interrupt_main()
        assert watch.stop.wait(timeout=20)
        _thread.interrupt_main()
        release.wait(timeout=20)  # a step that does not end

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        watched(work)
    assert time.monotonic() - began < 10
    release.set()


def test_progress_that_raises_stops_the_work():
    ended: list[str] = []

    def work(watch: Watch) -> None:
        watch.report(1, 2, "first")
        watch.report(2, 2, "second")
        stoppable(watch, ended)

    seen = []

    def progress(done: int, total: int | None, what: str) -> None:
        seen.append(what)
        raise OSError("the terminal went away")

    with pytest.raises(OSError, match="the terminal went away"):
        watched(work, progress)
    assert ended == ["stopped"]
    assert seen == ["first"]


def test_work_that_ended_well_after_ctrl_c_is_dropped():
    def work(watch: Watch) -> str:
        _thread.interrupt_main()
        assert watch.stop.wait(timeout=20)
        return "too late"

    with pytest.raises(KeyboardInterrupt):
        watched(work)


def test_work_looks_whether_it_shall_stop():
    watch = Watch()
    watch.raise_if_stopped()
    watch.stop.set()
    with pytest.raises(BuildCancelled):
        watch.raise_if_stopped()
