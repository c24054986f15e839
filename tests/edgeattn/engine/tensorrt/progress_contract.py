"""The progress monitor, driven as TensorRT drives it, where `import tensorrt` gives it."""

from __future__ import annotations

import ctypes
import threading

import pytest
import tensorrt as trt

from edgeattn.engine.tensorrt.progress import Watch, make_progress_monitor
from tests.tensorrt_virtual import VERSIONED, Virtual


class Optimizer:
    """TensorRT's side of a monitor: phaseStart, stepComplete, phaseFinish, in this order.

    References:
        NvInfer.h, v_1_0::IProgressMonitor, the same in 10.3 to 11.1.
    """

    def __init__(self, monitor: object) -> None:
        self._monitor = Virtual(monitor)

    def start(self, name: str, parent: str | None, steps: int) -> None:
        texts = (ctypes.c_char_p(text and text.encode()) for text in (name, parent))
        self._monitor.call(VERSIONED, None, *texts, ctypes.c_int32(steps))

    def step(self, name: str, step: int) -> bool:
        text = ctypes.c_char_p(name.encode())
        return self._monitor.call(VERSIONED + 1, ctypes.c_bool, text, ctypes.c_int32(step))

    def finish(self, name: str) -> None:
        self._monitor.call(VERSIONED + 2, None, ctypes.c_char_p(name.encode()))


def shown(watch: Watch) -> list[tuple[int, int | None, str]]:
    found = []
    while not watch.positions.empty():
        found.append(watch.positions.get())
    return found


def test_phases_and_steps_become_percent_and_a_name():
    watch = Watch()
    monitor = make_progress_monitor(watch)
    assert isinstance(monitor, trt.IProgressMonitor)
    optimizer = Optimizer(monitor)
    optimizer.start("Building Engine", None, 4)
    assert optimizer.step("Building Engine", 0)
    optimizer.start("Tactic Selection ½", "Building Engine", 2)
    assert optimizer.step("Tactic Selection ½", 0)
    optimizer.finish("Tactic Selection ½")
    assert optimizer.step("Building Engine", 3)
    optimizer.finish("Building Engine")
    assert shown(watch) == [
        (0, 100, "Building Engine"),
        (25, 100, "Building Engine"),
        (25, 100, "Tactic Selection ½"),
        (37, 100, "Tactic Selection ½"),
        (25, 100, "Building Engine"),
        (100, 100, "Building Engine"),
    ]


def test_a_build_that_shall_stop_is_told_so_at_its_next_step():
    watch = Watch()
    optimizer = Optimizer(make_progress_monitor(watch))
    optimizer.start("Building", None, 3)
    assert optimizer.step("Building", 0) is True
    watch.stop.set()
    assert optimizer.step("Building", 1) is False
    assert optimizer.step("Building", 2) is False


def test_the_monitor_is_called_from_several_threads(capfd):
    watch = Watch()
    optimizer = Optimizer(make_progress_monitor(watch))
    optimizer.start("Building", None, 8)
    refused = []

    def work(number: int) -> None:
        name = f"part {number}"
        optimizer.start(name, "Building", 50)
        refused.extend(step for step in range(50) if not optimizer.step(name, step))
        optimizer.finish(name)
        optimizer.step("Building", number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert shown(watch)[-1][0] == 100
    # The bindings print what a callback raises, and go on.
    assert capfd.readouterr().err == ""


def test_names_that_tensorrt_makes_up_later_do_no_harm(capfd):
    optimizer = Optimizer(make_progress_monitor(Watch()))
    optimizer.start("child of nobody", "never begun", 1)
    assert optimizer.step("never begun", 7)
    optimizer.finish("never begun")
    assert optimizer.step("child of nobody", 99)
    assert capfd.readouterr().err == ""


def test_what_goes_wrong_in_a_callback_stops_the_build_and_is_kept(capfd, monkeypatch):
    def fail(*position: object) -> None:
        raise ZeroDivisionError("in a callback")

    watch = Watch()
    optimizer = Optimizer(make_progress_monitor(watch))
    monkeypatch.setattr(watch, "report", fail)
    optimizer.start("Building", None, 3)
    assert optimizer.step("Building", 0) is False
    with pytest.raises(ZeroDivisionError, match="in a callback"):
        watch.raise_if_stopped()
    assert capfd.readouterr().err == ""


def test_the_monitor_can_be_made_again_and_again():
    for _ in range(3):
        Optimizer(make_progress_monitor(Watch())).start("Building", None, 1)
