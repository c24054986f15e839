"""What the exporter says of itself stays off the terminal; what others say does not."""

from __future__ import annotations

import logging
import sys
import threading
import warnings

import pytest
import torch  # noqa: F401  # gives its loggers their handlers

from edgeattn.graph.quiet import quiet


def test_this_threads_stderr_warnings_and_torchs_log_are_silent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    with quiet():
        sys.stderr.write("a graph so far\n")
        print("a graph so far", file=sys.stderr)  # noqa: T201
        warnings.warn("of a dependency", stacklevel=1)
        log.error("no user code")
    assert capfd.readouterr() == ("", "")


def test_everything_speaks_again_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    before = sys.stderr

    def fail() -> None:
        with quiet():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sys.stderr is before
    sys.stderr.write("heard\n")
    with pytest.warns(UserWarning, match="heard too"):
        warnings.warn("heard too", stacklevel=1)
    assert capfd.readouterr().err == "heard\n"
    handlers = [h for n in ("torch", "torch.export") for h in logging.getLogger(n).handlers]
    assert not any(handler.filters for handler in handlers)


def test_other_threads_stdout_and_other_logs_are_heard(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with quiet():
        thread = threading.Thread(target=lambda: sys.stderr.write("40 %\n"))
        thread.start()
        thread.join()
        sys.stdout.write("data\n")
        logging.getLogger("edgeattn").warning("ours")
        assert sys.stderr.isatty() is False  # a progress bar asks
    assert capfd.readouterr() == ("data\n", "40 %\n")
    assert caplog.messages == ["ours"]
