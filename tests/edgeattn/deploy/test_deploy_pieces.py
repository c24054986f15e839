"""Files cut into pieces that are sent once."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from edgeattn.deploy.pieces import cut
from edgeattn.errors import ArtifactError

LARGE = os.urandom(70_001)


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, method)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_pieces_of_a_zip_file_are_the_file(tmp_path: Path, method: int) -> None:
    members = {"small": b"s", "large": LARGE, "empty": b"", "text": b"abc" * 99_999, "z": LARGE[:9]}
    path = zipped(tmp_path / "b.zip", members, method)
    pieces = cut(path)
    whole = b"".join(chunk for piece in pieces for chunk in piece.read())
    assert whole == path.read_bytes()
    for piece in pieces:
        data = b"".join(piece.read())
        assert (piece.size, piece.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_members_that_did_not_change_are_the_same_pieces(tmp_path: Path) -> None:
    other = os.urandom(50_000)
    old = {"table": b"1", "large": LARGE, "other": other}
    new = {"table": b"22", "new": LARGE[::-1], "large": LARGE}
    before = cut(zipped(tmp_path / "a.zip", old, zipfile.ZIP_STORED))
    after = cut(zipped(tmp_path / "b.zip", new, zipfile.ZIP_STORED))
    known = {piece.sha256 for piece in before}
    assert [piece.size for piece in after if piece.sha256 in known] == [len(LARGE)]


def test_what_is_no_zip_file_is_one_piece(tmp_path: Path) -> None:
    for name, data in {"key.pem": b"key", "empty": b"", "text.zip": b"no zip at all"}.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert [b"".join(piece.read()) for piece in cut(path)] == ([data] if data else [])


def test_a_damaged_zip_file_is_sent_as_it_is(tmp_path: Path) -> None:
    whole = zipped(tmp_path / "b.zip", {"large": LARGE, "text": b"t"}).read_bytes()
    damaged = tmp_path / "damaged.zip"
    for data in (whole[:30_000], whole[5:], whole[:10] + whole[40:]):
        damaged.write_bytes(data)
        assert b"".join(chunk for piece in cut(damaged) for chunk in piece.read()) == data


def test_reading_goes_on_from_any_offset(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LARGE)
    (piece,) = cut(path)
    for offset in (0, 1, 65_537, len(LARGE)):
        assert b"".join(piece.read(offset)) == LARGE[offset:]


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LARGE)
    (piece,) = cut(path)
    path.write_bytes(LARGE[:100])
    with pytest.raises(ArtifactError, match="was changed while it was sent"):
        list(piece.read())
    with pytest.raises(ArtifactError, match="there is no file"):
        cut(tmp_path / "missing")


def test_two_local_headers_of_different_length_are_both_skipped(tmp_path: Path) -> None:
    # The local header may have another extra field than the directory (zip tools pad with it).
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("padded", (1980, 1, 1, 0, 0, 0))
        info.extra = b"\xfe\xca\x04\x00abcd"
        archive.writestr(info, LARGE)
    path = tmp_path / "b.zip"
    path.write_bytes(buffer.getvalue())
    assert hashlib.sha256(LARGE).hexdigest() in {piece.sha256 for piece in cut(path)}
