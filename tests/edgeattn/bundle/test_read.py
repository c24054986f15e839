"""A bundle is opened only if it is byte for byte a bundle; else it is refused in one sentence."""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeattn.artifacts import sha256_of_file
from edgeattn.bundle import read as read_module
from edgeattn.bundle.archive import LOCAL_MAGIC
from edgeattn.bundle.read import Bundle, is_bundle
from edgeattn.errors import ArtifactError
from tests.edgeattn.bundle.bundles import (
    FILES,
    entry,
    info_of,
    listing,
    manifest_of,
    plain_entries,
    zip_by_hand,
)


def refused(path: Path, said: str | None = None) -> ArtifactError:
    """Open what is to be refused, in one sentence and without writing anything."""
    before = listing(path.parent)
    with pytest.raises(ArtifactError, match=said) as caught:
        Bundle.open(path)
    assert listing(path.parent) == before
    assert "\n" not in caught.value.message
    return caught.value


def test_a_whole_bundle_opens_and_gives_its_files(made: Path) -> None:
    path = made / "net.zip"
    with Bundle.open(path) as bundle, zipfile.ZipFile(path) as other:
        assert bundle.sha256 == sha256_of_file(path)
        names = [each.name for each in bundle.manifest.entries]
        assert names == [name for name in other.namelist() if name != "manifest.json"]
        for each in bundle.manifest.entries:
            content = bundle.read(each.name)
            assert content == other.read(each.name)
            assert (each.size, each.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_what_zipfile_writes_in_the_form_is_a_bundle(tmp_path: Path) -> None:
    path = zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()))
    with Bundle.open(path) as bundle:
        assert {name: bundle.read(name) for name in FILES} == FILES


def test_a_name_that_is_not_in_it_is_refused(made: Path) -> None:
    with Bundle.open(made / "net.zip") as bundle, pytest.raises(ArtifactError, match="holds no x"):
        bundle.read("x")


def test_an_entry_that_is_too_large_for_memory_is_not_read(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_module, "MAX_READ_BYTES", 9)
    said = "bytes; expected at most 9"
    with Bundle.open(made / "net.zip") as bundle, pytest.raises(ArtifactError, match=said):
        bundle.read("graph/graph.onnx")


# --- damage ---------------------------------------------------------------------------------------


def opens(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        Bundle.open(path).close()
    except ArtifactError:
        return False
    return True


def opens_in_spite_of_flips(path: Path, whole: bytes, bits: Iterable[int]) -> list[int]:
    """Flip each of some bits alone; returns those after which the bundle still opens."""
    assert opens(path, whole)
    undetected = []
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        if opens(path, bytes(damaged)):
            undetected.append(bit)
    return undetected


def test_a_flipped_bit_in_any_byte_is_seen(tmp_path: Path) -> None:
    values = manifest_of(plain_entries())
    files = {"manifest.json.sig": bytes(range(64))} | FILES
    whole = zip_by_hand(tmp_path / "b.zip", values, files).read_bytes()
    bits = [8 * byte + byte % 8 for byte in range(len(whole))]
    assert len(bits) > 1500
    assert not opens_in_spite_of_flips(tmp_path / "b.zip", whole, bits)


def test_a_flipped_bit_here_and_there_is_seen(made: Path, tmp_path: Path) -> None:
    whole = (made / "signed.zip").read_bytes()
    assert not opens_in_spite_of_flips(tmp_path / "b.zip", whole, range(0, 8 * len(whole), 91))


@pytest.mark.slow
def test_any_flipped_bit_is_seen(made: Path, tmp_path: Path) -> None:
    whole = (made / "signed.zip").read_bytes()
    assert not opens_in_spite_of_flips(tmp_path / "b.zip", whole, range(8 * len(whole)))


def test_a_damaged_manifest_is_told_from_a_malformed_one(bundle: Path) -> None:
    whole = bytearray(bundle.read_bytes())
    whole[whole.index(b'"entries"')] ^= 1
    bundle.write_bytes(whole)
    refused(bundle, "its manifest does not have the checksum or the form that it tells")


@settings(max_examples=120)
@given(st.data())
def test_whatever_is_done_to_the_bytes_is_seen(made: Path, data: st.DataObject) -> None:
    """Parts cut out, doubled, moved or overwritten: only the very same bytes open."""
    whole = (made / "signed.zip").read_bytes()
    place = st.integers(0, len(whole))
    start, end = sorted((data.draw(place), data.draw(place)))
    part = data.draw(
        st.sampled_from([b"", whole[start:end] * 2, whole[: end - start], b"PK\1\2", b"PK\5\6"])
        | st.binary(max_size=64)
    )
    at = data.draw(place) if data.draw(st.booleans()) else start
    rest = whole[:start] + whole[end:]
    changed = rest[:at] + part + rest[at:]
    with tempfile.TemporaryDirectory() as folder:
        assert opens(Path(folder) / "b.zip", changed) == (changed == whole)


def test_a_bundle_cut_anywhere_is_refused(made: Path, tmp_path: Path) -> None:
    whole = (made / "net.zip").read_bytes()
    for length in range(0, len(whole), 13):
        assert not opens(tmp_path / "b.zip", whole[:length])
    assert not opens(tmp_path / "b.zip", whole[:-1])


@pytest.mark.parametrize("more", [b"\0", b"PK", b"x" * 70000])
def test_bytes_behind_a_bundle_are_refused(bundle: Path, more: bytes) -> None:
    bundle.write_bytes(bundle.read_bytes() + more)
    refused(bundle, "holds more than its manifest lists")


def test_bytes_before_a_bundle_are_refused(bundle: Path) -> None:
    bundle.write_bytes(b"#!/bin/sh\n" + bundle.read_bytes())
    refused(bundle, "does not begin as a zip archive does")


def test_a_truncated_bundle_says_so(bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-100])
    assert refused(bundle, "it is truncated: ").hint == "copy or make the bundle again"


def test_two_directories_are_refused(bundle: Path) -> None:
    whole = bundle.read_bytes()
    start = whole.index(b"PK\x01\x02")
    bundle.write_bytes(whole + whole[start:])
    refused(bundle)


def test_what_changes_while_it_is_read_is_refused(bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened:
        whole = bytearray(bundle.read_bytes())
        whole[whole.index(b"weight")] ^= 1
        with bundle.open("r+b") as stream:
            stream.write(whole)
        with pytest.raises(ArtifactError, match=r"changed while graph/graph\.onnx was read"):
            opened.extract("graph/graph.onnx", tmp_path)
        assert "graph.onnx" not in str(listing(tmp_path / "graph"))


def test_what_is_cut_while_it_is_read_is_refused(bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        with bundle.open("r+b") as stream:
            stream.truncate(100)
        with pytest.raises(ArtifactError, match="is truncated"):
            opened.read("golden/outputs.npz")


# --- extraction -----------------------------------------------------------------------------------


def test_files_are_extracted_under_their_own_names(bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened:
        path = opened.extract("golden/inputs.npz", tmp_path / "new")
        assert path == tmp_path / "new/golden/inputs.npz"
        assert path.read_bytes() == opened.read("golden/inputs.npz")


def test_a_link_in_the_folder_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/golden").symlink_to(tmp_path / "elsewhere")
    with Bundle.open(bundle) as opened, pytest.raises(ArtifactError, match="is a link"):
        opened.extract("golden/inputs.npz", tmp_path / "new")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_in_the_way_of_a_folder_is_an_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "golden").write_text("")
    with Bundle.open(bundle) as opened, pytest.raises(ArtifactError, match="cannot be made"):
        opened.extract("golden/inputs.npz", tmp_path)


# --- other archives -------------------------------------------------------------------------------


HOSTILE_NAMES = {
    "up": "../evil",
    "up inside": "graph/../../evil",
    "absolute": "/tmp/evil",
    "of Windows": "C:\\evil",
    "backslash": "..\\evil",
    "hidden": ".bashrc",
    "empty part": "a//b",
    "folder": "folder/",
    "other letters": "z\u00fcrich",
    "control": "a\x01b",
    "long": "a" * 101,
    "deep": "/".join("abcdefghi"),
}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_name_that_could_leave_its_folder_is_refused(
    tmp_path: Path, name: str, is_listed: bool
) -> None:
    more = [entry(name, b"evil", "weights")] if is_listed else []
    values = manifest_of(plain_entries() + more)
    path = zip_by_hand(tmp_path / "b.zip", values, FILES | {name: b"evil"})
    refused(path, "is no name for a file in a bundle")


def with_info(tmp_path: Path, info: Any, content: bytes = b"evil") -> Path:
    """Write a bundle with one listed member more, of zipfile's making."""
    values = manifest_of([*plain_entries(), entry(info.filename, content, "weights")])
    return zip_by_hand(tmp_path / "b.zip", values, [*FILES.items(), (info, content)])


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = with_info(tmp_path, info_of("link", mode=0o120777 << 16), b"/etc/passwd")
    refused(path, "link is a link")


@pytest.mark.parametrize("mode", [0o040755, 0o020666, 0o010644, 0o100755, 0o104755])
def test_whatever_is_no_plain_file_is_refused(tmp_path: Path, mode: int) -> None:
    refused(with_info(tmp_path, info_of("thing", mode=mode << 16)), "its directory is not that")


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    path = with_info(tmp_path, info_of("w", method=zipfile.ZIP_DEFLATED), b"0" * 1000)
    refused(path, "w is compressed, and a bundle's files are not")


def test_a_comment_is_refused(tmp_path: Path) -> None:
    info = info_of("w")
    info.comment = b"#!/bin/sh"
    refused(with_info(tmp_path, info), "bundle")


def test_an_extra_field_is_refused(tmp_path: Path) -> None:
    info = info_of("w")
    info.extra = b"\x99\x99\x04\x00evil"
    refused(with_info(tmp_path, info), "w is not where its manifest says")


def test_another_time_is_refused(tmp_path: Path) -> None:
    info = info_of("w")
    info.date_time = (2026, 1, 1, 0, 0, 0)
    refused(with_info(tmp_path, info), "not in the form of a bundle")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    name, content = next(iter(FILES.items()))
    with pytest.warns(UserWarning, match="Duplicate name"):
        unlisted = zip_by_hand(
            tmp_path / "a.zip", manifest_of(plain_entries()), [*FILES.items(), (name, content)]
        )
    refused(unlisted, f"{name} is in it twice")
    values = manifest_of([*plain_entries(), entry(name, content, "weights")])
    refused(zip_by_hand(tmp_path / "b.zip", values), "are one file on some systems")


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    values = manifest_of([*plain_entries(), entry("Graph.BIN", b"evil", "weights")])
    path = zip_by_hand(tmp_path / "b.zip", values, FILES | {"Graph.BIN": b"evil"})
    refused(path, r"graph\.bin and Graph\.BIN are one file on some systems")


@pytest.mark.parametrize("name", ["manifest.json", "Manifest.JSON", "manifest.json.sig"])
def test_a_second_manifest_is_refused(tmp_path: Path, name: str) -> None:
    values = manifest_of([*plain_entries(), entry(name, b"evil", "weights")])
    refused(zip_by_hand(tmp_path / "b.zip", values), "are one file on some systems")


def test_a_file_that_is_a_folder_too_is_refused(tmp_path: Path) -> None:
    more = [entry("a", b"", "weights"), entry("A/b", b"", "weights")]
    values = manifest_of(plain_entries() + more)
    refused(zip_by_hand(tmp_path / "b.zip", values), "a is a file and the folder of A/b")


def test_a_file_that_is_not_listed_is_named(tmp_path: Path) -> None:
    path = zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()), FILES | {"evil": b"x"})
    refused(path, "it holds evil, which its manifest does not list")


def test_a_file_that_is_missing_is_seen(tmp_path: Path) -> None:
    files = dict(list(FILES.items())[:-1])
    refused(zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()), files), "bundle")


def test_files_in_another_order_are_refused(tmp_path: Path) -> None:
    files = dict(reversed(FILES.items()))
    refused(zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()), files), "is not where")


def test_a_file_of_another_hash_is_refused(tmp_path: Path) -> None:
    files = FILES | {"graph.bin": b"other, other!!!"}
    path = zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()), files)
    refused(path, "graph.bin does not have the hash that its manifest tells")


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "a.zip", "does not begin with manifest.json")


@pytest.mark.parametrize("content", [b"", b"P", b"a text", LOCAL_MAGIC, LOCAL_MAGIC + b"\0" * 200])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip", "bundle")


def test_a_missing_bundle_and_a_folder_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "none.zip", "there is no file")
    with pytest.raises(ArtifactError, match="is a folder"):
        Bundle.open(tmp_path)


# --- bombs ----------------------------------------------------------------------------------------

TEN_GB = 10 * 1000**3


def bomb(size: int) -> bytes:
    """Write a deflate stream of zeros, a mebibyte at a time: about a thousandth of `size`."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    second = packer.compress(b"\0" * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + second * (size // 2**20 - 1) + packer.flush()


def deflated(path: Path, values: Any, told: int) -> Path:
    """Write a bundle whose first file inflates to 10 GB, whatever size its header tells."""
    stream = bomb(TEN_GB)
    assert len(stream) < 20e6
    files = [(info_of("graph.bin"), stream), *list(FILES.items())[1:]]
    zip_by_hand(path, values, files)
    whole = bytearray(path.read_bytes())
    method, size = (8).to_bytes(2, "little"), (told & 0xFFFFFFFF).to_bytes(4, "little")
    local = whole.index(b"graph.bin", whole.index(stream[:64]) - 9) - 30
    central = whole.rindex(b"graph.bin") - 46
    for at, of_method, of_size in ((local, 8, 22), (central, 10, 24)):
        whole[at + of_method : at + of_method + 2] = method
        whole[at + of_size : at + of_size + 4] = size
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("told", [TEN_GB, 15])
def test_a_bomb_of_10_gb_is_refused_unread(tmp_path: Path, told: int) -> None:
    path = deflated(tmp_path / "b.zip", manifest_of(plain_entries()), told)
    refused(path, "graph.bin is compressed, and a bundle's files are not")


@pytest.mark.parametrize("size", [TEN_GB, 2**62])
def test_a_file_that_is_said_to_have_10_gb_is_refused(tmp_path: Path, size: int) -> None:
    entries = plain_entries()
    entries[0]["size"] = size
    refused(zip_by_hand(tmp_path / "b.zip", manifest_of(entries)), "expected less than 4 GiB")


def test_a_file_that_is_said_to_have_3_gb_is_refused_unread(tmp_path: Path) -> None:
    entries = plain_entries()
    entries[0]["size"] = 3 * 1000**3
    refused(zip_by_hand(tmp_path / "b.zip", manifest_of(entries)), "it is truncated")


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    path = zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries(), name="x" * 5_000_000))
    refused(path, "its manifest takes 50")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    entries = [entry(f"f{n}", b"", "weights") for n in range(5000)]
    refused(zip_by_hand(tmp_path / "b.zip", manifest_of(entries), {}), "expected at most 4096")


def test_a_deep_manifest_is_refused(tmp_path: Path) -> None:
    path = zip_by_hand(tmp_path / "b.zip", manifest_of(plain_entries()))
    deep = b"[" * 100_000
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info_of("manifest.json"), deep)
    refused(path, "manifest")


def test_a_sparse_file_beyond_4_gib_is_refused_unread(bundle: Path) -> None:
    with bundle.open("r+b") as stream:
        stream.truncate(5 * 2**30)
    refused(bundle, "bundles end below 4 GiB")


# --- what is meant as a bundle --------------------------------------------------------------------


def test_a_bundle_is_known_by_its_name_or_its_first_bytes(made: Path, tmp_path: Path) -> None:
    assert is_bundle(made / "net.zip")
    assert is_bundle(tmp_path / "none.ZIP")
    (tmp_path / "renamed").write_bytes((made / "net.zip").read_bytes())
    assert is_bundle(tmp_path / "renamed")
    np.savez(tmp_path / "x.npz", x=np.zeros(3))  # a zip archive too
    assert not is_bundle(tmp_path / "x.npz")
    assert not is_bundle(made / "net.onnx")
    assert not is_bundle(tmp_path)
    assert not is_bundle(tmp_path / "none.engine")


def test_the_manifest_stands_first_and_lists_all_others(made: Path) -> None:
    with zipfile.ZipFile(made / "net.zip") as archive:
        first, *others = archive.namelist()
        values = json.loads(archive.read(first))
    assert first == "manifest.json"
    assert [each["name"] for each in values["entries"]] == others
    assert values["manifest"]["kind"] == "bundle"
    assert values["manifest"]["format_version"] == 1
    assert set(values["manifest"]["parents"]) == {"graph"}
    assert "edgeattn" in values["manifest"]["tools"]
