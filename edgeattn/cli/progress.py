"""Progress bars of the command line: the only place that draws them.

The verbs' functions report progress through a plain callback; here it becomes a bar on stderr, or
nothing where stderr is not a terminal. On a board that something is deployed to it becomes lines,
which the other end draws.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINES_EACH_S = 0.5
_LONGEST_DETAIL = 60

# How far, out of how much (None: unknown), doing what.
ProgressCallback = Callable[[int, int | None, str], None]
# The same of one of several, by its name.
NamedCallback = Callable[[str, int, int | None, str], None]


@contextlib.contextmanager
def working() -> Iterator[ProgressCallback | None]:
    """Give the progress callback for some work, and keep stdout for the result.

    Whatever the work prints, a user's model or a library, goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if sys.stderr.isatty():
            with _bar() as callback:
                yield callback
        elif os.environ.get("EDGEATTN_PROGRESS") == "lines":
            yield _lines()
        else:
            yield None


@contextlib.contextmanager
def working_together() -> Iterator[NamedCallback]:
    """Give the callback for work on several things at once: a bar for each, by its name.

    Where stderr is not a terminal, a line tells whenever one begins with something else; `what`
    is that, up to the first colon.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if sys.stderr.isatty():
            with _bars() as callback:
                yield callback
        else:
            yield _log()


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    with _progress(count=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int | None, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield show


@contextlib.contextmanager
def _bars() -> Iterator[NamedCallback]:
    bar = _progress(count=False)
    tasks: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int | None, what: str) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=None)
        described = f"{name}  {what[:_LONGEST_DETAIL]}"
        bar.update(tasks[name], completed=done, total=total, description=described)
        bar.start()  # not before: somebody may be asked for a password until then

    try:
        yield show
    finally:
        bar.stop()


def _progress(*, count: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn()]
    columns += [MofNCompleteColumn()] * count  # bytes of an upload would be no count to read
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)


def _lines() -> ProgressCallback:
    """Write progress as `edgeattn.deploy.onboard.talk` reads messages."""
    last = 0.0

    def show(done: int, total: int | None, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINES_EACH_S:
            last = now
            values = {"done": done, "total": total, "what": what}
            sys.stderr.write(f"\x1e{json.dumps(values)}\n")
            sys.stderr.flush()

    return show


def _log() -> NamedCallback:
    known: dict[str, str] = {}

    def show(name: str, done: int, total: int | None, what: str) -> None:
        headline = what.partition(":")[0]
        if known.get(name) != headline:
            known[name] = headline
            sys.stderr.write(f"{name}: {headline}\n")
            sys.stderr.flush()

    return show
