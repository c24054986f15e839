"""The user's folder for what is compiled or fetched once, safe under several processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeattn.errors import PluginError


def cache_folder() -> Path:
    """Where compiled libraries are kept: `$XDG_CACHE_HOME/edgeattn` or `~/.cache/edgeattn`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "edgeattn"


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold a lock that other processes wait for; it ends with the block or the process.

    Args:
        path: The lock file; its folder is made.
        on_wait: Called once if another process holds the lock.

    Yields:
        The file that holds it. A child process that inherits the file holds the lock too, should
        it outlive this one.

    Raises:
        PluginError: If the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a")
    except OSError as err:
        raise PluginError(
            f"the cache folder {path.parent} is not writable: {err.strerror}",
            "set XDG_CACHE_HOME to a folder that is",
        ) from err
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()
