"""Progress bars of the command line: the only place that draws them.

The verbs' functions report progress through a plain callback; here it becomes a bar on stderr, or
nothing where stderr is not a terminal.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

# How far, out of how much (None: unknown), doing what.
ProgressCallback = Callable[[int, int | None, str], None]


@contextlib.contextmanager
def working() -> Iterator[ProgressCallback | None]:
    """Give the progress callback for some work, and keep stdout for the result.

    Whatever the work prints, a user's model or a library, goes to stderr.
    """
    with contextlib.redirect_stdout(sys.stderr):
        if sys.stderr.isatty():
            with _bar() as callback:
                yield callback
        else:
            yield None


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int | None, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield show
