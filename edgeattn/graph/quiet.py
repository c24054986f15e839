"""Keep the exporter's own account of its work off the terminal.

PyTorch warns of its own dependencies and, where it cannot trace a model, prints the graph so far.
What the user needs to know is in the error that is raised.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import Any, TextIO


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, PyTorch's log handlers and what this thread writes to stderr.

    Other threads, such as the one that draws a progress bar, still reach stderr.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for handler in _torch_handlers():
            handler.addFilter(_is_foreign)
            stack.callback(handler.removeFilter, _is_foreign)
        stack.enter_context(redirect_stderr(_OtherThreads(sys.stderr)))
        yield


def _torch_handlers() -> set[logging.Handler]:
    """Collect the handlers of PyTorch's own loggers."""
    return {
        handler
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger) and not _is_foreign(logger)
        for handler in logger.handlers
    }


def _is_foreign(named: logging.Logger | logging.LogRecord) -> bool:
    return named.name.partition(".")[0] != "torch"  # a handler may serve other loggers too


class _OtherThreads:
    """A stream without what the thread that made it writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._muted = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Write what comes from another thread."""
        return len(text) if threading.get_ident() == self._muted else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
