"""The bytes of the archive: what zipfile and unzip read, and what zipfile writes of the same."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest

from edgeattn.bundle import archive
from edgeattn.bundle.archive import (
    Member,
    archive_bytes,
    directory,
    listed_members,
    local_header,
    write_archive,
)
from edgeattn.errors import ArtifactError
from tests.edgeattn.bundle.bundles import info_of

CONTENTS = [("a.txt", b"first"), ("folder/b.bin", bytes(range(256)) * 5000), ("empty", b"")]


def test_it_is_byte_for_byte_what_zipfile_writes_of_the_same_members(tmp_path: Path) -> None:
    by_zipfile = io.BytesIO()
    with zipfile.ZipFile(by_zipfile, "w") as other:
        for name, content in CONTENTS:
            other.writestr(info_of(name), content)
    write_archive(tmp_path / "a.zip", CONTENTS)
    assert (tmp_path / "a.zip").read_bytes() == by_zipfile.getvalue()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_other_programs_read_it(tmp_path: Path, count: int) -> None:
    path = tmp_path / "a.zip"
    write_archive(path, CONTENTS[:count])
    with zipfile.ZipFile(path) as other:
        assert other.testzip() is None
        assert [(i.filename, other.read(i)) for i in other.infolist()] == CONTENTS[:count]
        assert all(i.date_time == (1980, 1, 1, 0, 0, 0) for i in other.infolist())
    if shutil.which("unzip") and count:
        subprocess.run(["unzip", "-tq", path], check=True, capture_output=True)


def test_a_file_is_written_as_its_bytes_are(tmp_path: Path) -> None:
    files = []
    for name, content in CONTENTS:
        files.append((name, tmp_path / name.replace("/", "-")))
        files[-1][1].write_bytes(content)
    write_archive(tmp_path / "of-bytes.zip", CONTENTS)
    write_archive(tmp_path / "of-files.zip", files)
    assert (tmp_path / "of-bytes.zip").read_bytes() == (tmp_path / "of-files.zip").read_bytes()


def test_its_size_is_known_before(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zip", CONTENTS)
    sizes = [(name, len(content)) for name, content in CONTENTS]
    assert archive_bytes(sizes) == (tmp_path / "a.zip").stat().st_size
    assert archive_bytes([]) == 22


def test_header_and_directory_frame_a_member(tmp_path: Path) -> None:
    member = Member("a.txt", 5, zlib.crc32(b"first"))
    write_archive(tmp_path / "a.zip", CONTENTS[:1])
    expected = local_header(member) + b"first" + directory([member])
    assert (tmp_path / "a.zip").read_bytes() == expected


def test_what_passes_4_gib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 1000)
    with pytest.raises(ArtifactError, match=r"folder/b\.bin takes the bundle beyond"):
        write_archive(tmp_path / "a.zip", CONTENTS)


def test_the_directory_of_any_archive_is_listed_in_good_faith(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as other:
        other.writestr(info_of("../out", method=zipfile.ZIP_DEFLATED), b"x" * 100)
        other.writestr(info_of("link", mode=0o120777 << 16), b"/etc/passwd")
    with path.open("rb") as stream:
        found = [tuple(each) for each in listed_members(stream)]
    assert found == [("../out", 8, 0o100644), ("link", 0, 0o120777)]


@pytest.mark.parametrize("content", [b"", b"PK\5\6", b"x" * 100, b"PK\5\6" + b"\xff" * 18])
def test_what_has_no_directory_lists_nothing(content: bytes) -> None:
    assert listed_members(io.BytesIO(content)) == []
