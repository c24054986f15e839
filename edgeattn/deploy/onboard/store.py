"""What was sent to a board, named by its sha256: sent once, gone on with after a cut, checked.

A piece that is whole is `<sha256>`; what has arrived of it until then `<sha256>.part`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from edgeattn.deploy.onboard.folder import (
    Folder,
    end_holder,
    read_json,
    sync_folder,
    write_json,
)
from edgeattn.deploy.onboard.talk import RefusedError, say

_CHUNK = 1 << 18
_SILENCE_S = 90
_TAKE_OVER_S = 10.0
# What was sent lately may be for a deployment that is about to begin.
_SPARED_S = 3600.0
_PARTS_SPARED_S = 7 * 86400.0


def receive(folder: Folder, stream: BufferedReader, wanted: list[list[Any]]) -> dict[str, Any]:
    """Take in pieces: say how much of each is here, then read the rest.

    Args:
        folder: The board's folder.
        stream: Where the missing bytes of the pieces come from, one after the other.
        wanted: sha256 and size of each piece.

    Returns:
        How many bytes came.

    Raises:
        RefusedError: If the disk would be full, bytes stop to come, or a piece is not what its name
            says; what came of it is dropped then.
    """
    with _only_receiver(folder):
        pieces = [(sha256, size, _held(folder, sha256, size)) for sha256, size in wanted]
        missing = sum(size - held for _, size, held in pieces)
        free = shutil.disk_usage(folder.store).free
        if 2 * missing > free:  # a bundle is put together from its pieces
            raise RefusedError(
                f"the board's disk has {free >> 20} MiB free, and {2 * missing >> 20} MiB are "
                "needed",
                "make room, or deploy to another disk with --folder",
            )
        say(offsets=[held for *_, held in pieces])
        for sha256, size, held in pieces:
            if held < size or not _is_whole(folder, sha256):
                _read_piece(folder, stream, sha256, size, held)
                say(received=sha256)
        return {"bytes": missing}


def compose(folder: Folder, pieces: list[str], target: Path, sha256: str) -> None:
    """Put a file together from its pieces, and check both.

    A file that is one piece takes no room of its own.

    Raises:
        RefusedError: If a piece is missing or was changed; it is dropped, to be sent again.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    whole = hashlib.sha256()
    try:
        with temporary.open("wb") as stream:
            for name in pieces:
                _append_piece(folder.store / name, stream, whole)
            stream.flush()
            os.fsync(stream.fileno())
        if len(pieces) == 1:
            with contextlib.suppress(OSError):  # a file system without links
                linked = temporary.with_name(f"{temporary.name}.link")
                os.link(folder.store / pieces[0], linked)
                linked.replace(temporary)
        if whole.hexdigest() != sha256:
            raise RefusedError(f"{target.name} was put together and is not what was sent")
        temporary.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def prune(folder: Folder, keep: set[str]) -> None:
    """Drop the pieces that nothing needs, and parts that nobody goes on with."""
    for path in folder.store.iterdir():
        age_s = time.time() - path.stat().st_mtime
        is_part = path.name.endswith(".part")
        is_piece = len(path.name) == 64 and path.name not in keep
        if (is_part and age_s > _PARTS_SPARED_S) or (is_piece and age_s > _SPARED_S):
            path.unlink()


def sha256_of(path: Path) -> str:
    """Hash a file; hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _append_piece(path: Path, stream: BinaryIO, whole: Any) -> None:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as piece:
            while chunk := piece.read(_CHUNK):
                digest.update(chunk)
                whole.update(chunk)
                stream.write(chunk)
    except FileNotFoundError:
        raise RefusedError(
            f"the piece {path.name[:12]} is not on the board", "deploy again: it will be sent"
        ) from None
    if digest.hexdigest() != path.name:
        path.unlink()
        raise RefusedError(
            f"the piece {path.name[:12]} was changed on the board's disk, and is dropped",
            "deploy again: it will be sent anew",
        )


def _held(folder: Folder, sha256: str, size: int) -> int:
    """Tell how many bytes of a piece are here."""
    if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
        raise RefusedError(f"{sha256!r} is no sha256")
    if _is_whole(folder, sha256):
        return size
    part = folder.store / f"{sha256}.part"
    held = part.stat().st_size if part.exists() else 0
    if held > size:
        part.unlink()
        return 0
    return held


def _is_whole(folder: Folder, sha256: str) -> bool:
    return (folder.store / sha256).exists()


def _read_piece(folder: Folder, stream: BufferedReader, sha256: str, size: int, held: int) -> None:
    """Read the rest of a piece; what has arrived is kept if the stream ends."""
    part = folder.store / f"{sha256}.part"
    with part.open("ab") as file:
        while held < size:
            signal.alarm(_SILENCE_S)
            chunk = stream.read1(min(_CHUNK, size - held))  # what is there, not all of it
            signal.alarm(0)
            if not chunk:
                raise RefusedError("the upload ended early")
            file.write(chunk)
            file.flush()  # what is in our buffer dies with us
            held += len(chunk)
        os.fsync(file.fileno())
    if sha256_of(part) != sha256:
        part.unlink()
        raise RefusedError(
            f"the piece {sha256[:12]} did not arrive as it was sent", "deploy again: it is dropped"
        )
    part.replace(folder.store / sha256)
    sync_folder(folder.store)


@contextlib.contextmanager
def _only_receiver(folder: Folder) -> Iterator[None]:
    """Be the only process that takes pieces in.

    One that still waits for bytes of a connection that is long gone makes way: the newest upload
    is the one that somebody wants. Nothing is lost, for all that arrived is kept.
    """

    def on_silence(*_: object) -> None:
        raise RefusedError(f"no data came for {_SILENCE_S} s")

    def on_successor(*_: object) -> None:
        raise RefusedError("another upload to this board took over", "deploy one after the other")

    signal.signal(signal.SIGALRM, on_silence)
    signal.signal(signal.SIGTERM, on_successor)
    holder = folder.store / "receiver.json"
    with (folder.store / "receiver").open("a") as stream:
        end = time.monotonic() + _TAKE_OVER_S
        is_asked = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not is_asked:
                    pid = (read_json(holder) or {}).get("pid")
                    is_asked = end_holder(pid, folder.store / "receiver", with_children=False)
                if time.monotonic() > end:
                    raise RefusedError("another upload to this board does not end") from None
                time.sleep(0.05)
        write_json(holder, {"pid": os.getpid()})
        yield
