"""A file as pieces that are sent once: the members of a zip file, and what stands between them.

A bundle that differs from the last one in a table shares every other member with it, byte for
byte, compressed as it is. Put together again, the pieces are the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import open_for_reading
from edgeattn.errors import ArtifactError

# Smaller members go with what is around them: a piece costs a name and a file.
_SMALLEST = 1 << 14
_CHUNK = 1 << 17
# A local header: 30 bytes with the lengths of name and extra field at the end (APPNOTE.TXT 4.3.7).
_HEADER_BYTES = 30
_LENGTHS = struct.Struct("<HH")


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        path: The file.
        begin: Where in it, in bytes.
        size: How many bytes.
        sha256: Of these bytes.
    """

    path: Path
    begin: int
    size: int
    sha256: str

    def read(self, offset: int = 0) -> Iterator[bytes]:
        """Read it from an offset on, in chunks.

        Raises:
            ArtifactError: If the file cannot be read, or is shorter by now.
        """
        with open_for_reading(self.path) as stream:
            stream.seek(self.begin + offset)
            left = self.size - offset
            while left:
                chunk = stream.read(min(_CHUNK, left))
                if not chunk:
                    raise ArtifactError(f"{self.path} was changed while it was sent", "try again")
                left -= len(chunk)
                yield chunk


def cut(path: Path) -> list[Piece]:
    """Cut a file into pieces; one that is no zip file is a single piece.

    Raises:
        ArtifactError: If it cannot be read.
    """
    with open_for_reading(path) as stream:
        size = path.stat().st_size
        edges = {0, size}
        for begin, end in _members(path):
            edges |= {begin, end}
        ordered = sorted(edges)
        pieces = []
        for begin, end in itertools.pairwise(ordered):
            digest = hashlib.sha256()
            stream.seek(begin)
            for at in range(begin, end, _CHUNK):
                digest.update(stream.read(min(_CHUNK, end - at)))
            pieces.append(Piece(path, begin, end - begin, digest.hexdigest()))
    return pieces


def _members(path: Path) -> Iterator[tuple[int, int]]:
    """Find where the data of a zip file's larger members begin and end.

    Any places would do, for the pieces are the file; of a damaged file there are fewer.
    """
    size = path.stat().st_size
    no_archive = contextlib.suppress(zipfile.BadZipFile)
    with no_archive, zipfile.ZipFile(path) as archive, path.open("rb") as stream:
        for info in archive.infolist():
            if info.compress_size < _SMALLEST or info.header_offset < 0:
                continue
            stream.seek(info.header_offset)
            header = stream.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                continue
            begin = info.header_offset + _HEADER_BYTES + sum(_LENGTHS.unpack(header[26:]))
            if begin + info.compress_size <= size:
                yield begin, begin + info.compress_size
