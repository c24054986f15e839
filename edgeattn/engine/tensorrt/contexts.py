"""A few execution contexts for any number of callers: each call borrows one, or waits for one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from edgeattn.engine.tensorrt.execution import Execution
from edgeattn.errors import EngineError


class ContextPool:
    """Execution contexts that are lent to one caller at a time.

    Args:
        executions: The contexts; the pool closes them.
    """

    def __init__(self, executions: Sequence[Execution]) -> None:
        self._all = list(executions)
        self._free = list(executions)
        self._is_closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def lend(self) -> Iterator[Execution]:
        """Lend a context for the block; waits until one is free.

        Raises:
            EngineError: If the pool is closed, also while the caller waits.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._is_closed)
            if self._is_closed:
                raise EngineError("the engine is closed", "load it again")
            # The one used last: its binding and its graph fit a repeated query.
            execution = self._free.pop()
        try:
            yield execution
        finally:
            with self._changed:
                self._free.append(execution)
                self._changed.notify_all()

    def close(self) -> None:
        """Lend no more, wait for what is lent, and free all contexts. Closing twice is harmless.

        Raises:
            EngineError: If CUDA fails; everything is let go of nevertheless.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == len(self._all))
            with contextlib.ExitStack() as stack:
                while self._all:
                    stack.callback(self._all.pop().close)
                self._free.clear()
