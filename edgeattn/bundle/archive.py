"""The bytes of a bundle's `.zip`: one form, so that every byte of a file can be compared with it.

Members are stored, not deflated: weights hardly shrink, the bytes depend on no version of zlib, and
no member is larger when it is read than it is in the file. Times, attributes and order are fixed:
names and contents alone decide the bytes. Zip64 is not used, so a bundle ends below 4 GiB.

References:
    PKWARE APPNOTE.TXT 6.3.10: 4.3.7 local file header, 4.3.12 central directory, 4.3.16 end of
    central directory record.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edgeattn.artifacts import open_for_reading
from edgeattn.errors import ArtifactError

MAX_BYTES = 0xFFFFFFFF - 1  # what 32 bits count, without the number that stands for Zip64
MAX_MEMBERS = 0xFFFF - 1
CHUNK = 1 << 20

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_VERSION = 20  # of the format that a reader needs: 2.0, folders
_UNIX = 3 << 8  # who made it, which says how to read the attributes
STORED = 0  # the method that compresses nothing
_FLAGS, _TIME = 0, 0
_DATE = (1980 - 1980) << 9 | 1 << 5 | 1  # 1 January 1980, the first that the format knows
_ATTRIBUTES = 0o100644 << 16  # a plain file that everybody may read


@dataclass(frozen=True)
class Member:
    """A file in the archive.

    Attributes:
        name: Its path in ASCII, parts apart by `/`.
        size: Its bytes.
        crc32: Checksum of its content.
    """

    name: str
    size: int
    crc32: int


def local_header(member: Member) -> bytes:
    """Give the bytes before a member's content."""
    name = member.name.encode("ascii")
    return (
        _LOCAL.pack(
            LOCAL_MAGIC,
            *(_VERSION, _FLAGS, STORED, _TIME, _DATE),
            *(member.crc32, member.size, member.size),
            *(len(name), 0),
        )
        + name
    )


def header_bytes(name: str) -> int:
    """Count the bytes before the content of a member of that name."""
    return _LOCAL.size + len(name)


def directory(members: Sequence[Member]) -> bytes:
    """Give the bytes after the last member: the central directory and its end."""
    records, offset = b"", 0
    for member in members:
        name = member.name.encode("ascii")
        records += _CENTRAL.pack(
            _CENTRAL_MAGIC,
            *(_UNIX | _VERSION, _VERSION, _FLAGS, STORED, _TIME, _DATE),
            *(member.crc32, member.size, member.size),
            *(len(name), 0, 0, 0, 0),
            *(_ATTRIBUTES, offset),
        )
        records += name
        offset += header_bytes(member.name) + member.size
    count = len(members)
    end = _END.pack(_END_MAGIC, 0, 0, count, count, len(records), offset, 0)
    return records + end


class ListedMember(NamedTuple):
    """What an archive's directory says of a member, true or not.

    Attributes:
        name: Its path.
        method: How it is compressed; 0 if it is not.
        mode: Type and permissions, as Unix has them; 0 if another system made the archive.
    """

    name: str
    method: int
    mode: int


def listed_members(stream: BinaryIO) -> list[ListedMember]:
    """Read the directory of any zip archive that ends with it, in good faith and bounded memory.

    Returns:
        What it lists, as far as it can be read; none where nothing can.
    """
    total = stream.seek(0, 2)
    if total < _END.size:
        return []
    stream.seek(-_END.size, 2)
    magic, *_, count, size, offset, _ = _END.unpack(stream.read(_END.size))
    if magic != _END_MAGIC or offset + size > total:
        return []
    stream.seek(offset)
    found = []
    for _ in range(count):
        record = stream.read(_CENTRAL.size)
        if len(record) < _CENTRAL.size or record[:4] != _CENTRAL_MAGIC:
            break
        values = _CENTRAL.unpack(record)
        method, attributes, lengths = values[4], values[15], values[10:13]
        name = stream.read(lengths[0]).decode("utf-8", "replace")
        stream.seek(lengths[1] + lengths[2], 1)
        found.append(ListedMember(name, method, attributes >> 16))
    return found


def archive_bytes(sizes: Iterable[tuple[str, int]]) -> int:
    """Count the bytes of an archive from the names and sizes of its members."""
    names = total = 0
    for name, size in sizes:
        names += header_bytes(name) + _CENTRAL.size + len(name)
        total += size
    return names + total + _END.size


def write_archive(output: Path, contents: Iterable[tuple[str, bytes | Path]]) -> None:
    """Write an archive.

    Args:
        output: File to write; `atomic_path` makes it appear whole.
        contents: Name and content of each member, in their order.

    Raises:
        ArtifactError: If a file cannot be read, or the archive would pass 4 GiB.
    """
    members: list[Member] = []
    with output.open("wb") as stream:
        for name, content in contents:
            start = stream.tell()
            stream.seek(header_bytes(name), 1)  # written when the checksum is known
            member = _copy(name, content, stream)
            end = stream.tell()
            if end > MAX_BYTES or len(members) == MAX_MEMBERS:
                raise ArtifactError(
                    f"{name} takes the bundle beyond {MAX_MEMBERS} files or 4 GiB",
                    "leave out what the board does not need, or make the graph's weights smaller",
                )
            stream.seek(start)
            stream.write(local_header(member))
            stream.seek(end)
            members.append(member)
        stream.write(directory(members))


def _copy(name: str, content: bytes | Path, stream: BinaryIO) -> Member:
    if isinstance(content, bytes):
        stream.write(content)
        return Member(name, len(content), zlib.crc32(content))
    size = crc32 = 0
    with open_for_reading(content) as source:
        while chunk := source.read(CHUNK):
            stream.write(chunk)
            size, crc32 = size + len(chunk), zlib.crc32(chunk, crc32)
    return Member(name, size, crc32)
