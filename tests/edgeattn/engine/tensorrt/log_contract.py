"""The logger, driven as TensorRT drives it, where `import tensorrt` gives the real bindings."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref

import pytest
import tensorrt as trt

from edgeattn.engine.tensorrt.log import CapturedLog, make_logger

SEVERITIES = ("internal_error", "error", "warning", "info", "verbose")


class Caller:
    """TensorRT's side of a logger: the virtual function of nvinfer1::ILogger.

    A pybind11 object holds the address of its C++ object after Python's own header of two words,
    and a C++ object that of its table of virtual functions. `log` is the first function of that
    table in NvInferRuntimeBase.h 10.x. In NvInferRuntime.h 11.0 ILogger became an
    IVersionedInterface, whose two functions and two destructors come first.
    """

    def __init__(self, logger: object) -> None:
        self._keep_alive = logger
        self._this = ctypes.c_void_p.from_address(id(logger) + 2 * ctypes.sizeof(ctypes.c_void_p))
        table = ctypes.c_void_p.from_address(self._this.value).value
        slot = 4 if int(trt.__version__.partition(".")[0]) >= 11 else 0
        function = (ctypes.c_void_p * 5).from_address(table)[slot]
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)
        self._function = kind(function)

    def log(self, severity: str, text: str) -> None:
        number = int(getattr(trt.ILogger.Severity, severity.upper()))
        self._function(self._this, number, text.encode())


def test_every_severity_arrives_under_its_name():
    log = CapturedLog()
    logger = make_logger(log, verbose=True)
    assert isinstance(logger, trt.ILogger)
    assert {name.lower() for name in trt.ILogger.Severity.__members__} == set(SEVERITIES)
    for severity in SEVERITIES:
        Caller(logger).log(severity, f"it is {severity}: ½")
    assert [(line.severity, line.text) for line in log.lines] == [
        (severity, f"it is {severity}: ½") for severity in SEVERITIES
    ]


def test_verbose_lines_are_kept_only_where_they_are_wanted():
    log = CapturedLog()
    caller = Caller(make_logger(log))
    caller.log("verbose", "much")
    caller.log("info", "little")
    assert [line.text for line in log.lines] == ["little"]


def test_lines_of_many_threads_all_arrive():
    log = CapturedLog()
    caller = Caller(make_logger(log))

    def work(thread: int) -> None:
        for number in range(50):
            caller.log("info", f"{thread}.{number}")

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [line.text for line in log.lines]
    assert len(texts) == 200
    for thread in range(4):
        assert [text for text in texts if text.startswith(f"{thread}.")] == [
            f"{thread}.{number}" for number in range(50)
        ]


def test_one_logger_serves_every_log_that_is_open():
    """TensorRT ignores a second logger while an object made with the first one lives."""
    engine, build = CapturedLog(), CapturedLog()
    logger = make_logger(engine)
    assert make_logger(build, verbose=True) is logger
    Caller(logger).log("info", "for both")
    Caller(logger).log("verbose", "for one")
    assert [line.text for line in build.lines] == ["for both", "for one"]
    assert [line.text for line in engine.lines] == ["for both"]
    gone = weakref.ref(build)
    del build
    assert gone() is None  # nothing holds what nobody reads
    Caller(logger).log("info", "for the one that is left")
    assert len(engine.lines) == 2


def test_warnings_and_errors_go_to_python_each_kind_once(caplog):
    log = CapturedLog()
    caller = Caller(make_logger(log))
    with caplog.at_level(logging.INFO, "edgeattn.tensorrt"):
        caller.log("warning", "Tactic Device request: 4229MB Available: 2658MB.")
        caller.log("warning", "Tactic Device request: 133MB Available: 9MB.")
        caller.log("warning", "Something else 0x000000000000004a")
        caller.log("warning", "Something else 0xffff")
        caller.log("info", "not shown")
        caller.log("error", "It failed.")
    assert len(log.lines) == 6
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "TensorRT: Tactic Device request: 4229MB Available: 2658MB."),
        (logging.WARNING, "TensorRT: Something else 0x000000000000004a"),
        (logging.ERROR, "TensorRT: It failed."),
    ]
    caplog.clear()
    make_logger(CapturedLog())
    caller.log("error", "It failed.")  # again, of something else
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a handler failed")])
def test_what_is_raised_in_the_logger_is_raised_afterwards(error, monkeypatch):
    log = CapturedLog()

    def fail(severity: str, text: str) -> None:
        raise error

    monkeypatch.setattr(log, "add", fail)
    caller = Caller(make_logger(log))
    caller.log("info", "returns, as TensorRT needs it to")
    assert log.kept is error
    with pytest.raises(type(error)) as raised:
        log.raise_kept()
    assert raised.value is error
    assert log.kept is None
    log.raise_kept()


@pytest.mark.parametrize("kind", ["Builder", "Runtime"])
def test_tensorrts_own_objects_take_it(kind):
    """With the link stubs they get as far as TensorRT's factory, which gives nothing."""
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        getattr(trt, kind)(make_logger(CapturedLog()))
