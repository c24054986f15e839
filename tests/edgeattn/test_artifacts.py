"""Files appear whole or not at all, and what does not fit its manifest is refused."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeattn import artifacts
from edgeattn.artifacts import (
    FORMAT_VERSIONS,
    Manifest,
    Parent,
    atomic_artifact,
    atomic_path,
    check_writable,
    data_folder,
    manifest_path,
    read_json,
    read_manifest,
    sha256_of_bytes,
    sha256_of_file,
    tool_versions,
    write_bytes,
    write_json,
)
from edgeattn.errors import ArtifactError

NOBODY = 65534
SKIPPED = 77  # exit code, as automake has it
# sha256 of "abc", from FIPS 180-2, appendix B.1.
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- writing --------------------------------------------------------------------------------------


def test_a_file_written_atomically_has_its_content_and_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    usual = tmp_path / "usual"
    usual.touch()
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert names(tmp_path) == ["out.bin", "usual"]


def test_a_file_in_the_working_folder_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bytes(Path("out.bin"), b"abc")
    assert (tmp_path / "out.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_nothing_behind_and_the_old_file_untouched(
    tmp_path: Path, failure: type[BaseException], old: bytes | None
) -> None:
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_bytes(old)

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of it")
            raise failure

    with pytest.raises(failure):
        write()
    assert names(tmp_path) == (["out.bin"] if old else [])
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(OSError(28, "No space left on device"), "No space left on device"), (OSError("odd"), "odd")],
)
def test_a_full_disk_is_told_with_the_name_of_the_file(
    tmp_path: Path, failure: OSError, reason: str
) -> None:
    path = tmp_path / "out.bin"
    message = f"out.bin could not be written: {reason}"
    with pytest.raises(ArtifactError, match=message), atomic_path(path):
        raise failure
    assert names(tmp_path) == []


def test_a_killed_process_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from edgeattn.artifacts import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half of it')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_two_processes_writing_one_file_leave_a_whole_file_of_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    size = 1 << 20
    code = (
        "import sys; from pathlib import Path\n"
        "from edgeattn.artifacts import write_bytes\n"
        f"for _ in range(40): write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * {size})\n"
    )
    path.write_bytes(b"a" * size)
    writers = [subprocess.Popen([sys.executable, "-c", code, path, letter]) for letter in "ab"]
    wholes = {b"a" * size, b"b" * size}
    while any(writer.poll() is None for writer in writers):
        assert path.read_bytes() in wholes
    assert [writer.returncode for writer in writers] == [0, 0]
    assert path.read_bytes() in wholes
    assert names(tmp_path) == ["out.bin"]


def test_a_missing_folder_is_named_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.bin"
    for write in (check_writable, lambda p: write_bytes(p, b"")):
        with pytest.raises(ArtifactError, match=r"there is no folder .*none$") as error:
            write(path)
        assert error.value.hint
    assert names(tmp_path) == []


def test_a_folder_is_not_overwritten_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder; expected a file to write"):
        check_writable(tmp_path)


def test_asking_whether_a_file_can_be_written_writes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.bin")
    assert names(tmp_path) == []


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """Give a folder that its users may close; outside the one that pytest keeps for this user."""
    folder = Path(tempfile.mkdtemp(prefix="edgeattn-test-"))
    folder.chmod(0o755)
    inner = folder / "inner"
    inner.mkdir()
    yield inner
    inner.chmod(0o755)
    shutil.rmtree(folder)


# Root ignores permission bits. Its rights are dropped after the import, for an ordinary user may
# not even be able to read this checkout.
DROP_RIGHTS = f"""
import os, sys
from pathlib import Path
from edgeattn.artifacts import check_writable, read_json, write_bytes
from edgeattn.errors import ArtifactError
if os.geteuid() == 0:
    try:
        os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
    except PermissionError:
        sys.exit({SKIPPED})
def attempt(function, *arguments):
    try:
        function(Path(sys.argv[1]), *arguments)
    except ArtifactError as err:
        print(err.message, err.hint, sep=' | ')
"""


def as_an_ordinary_user(code: str, path: Path) -> str:
    """Run Python that may call `attempt`; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", DROP_RIGHTS + code, path], capture_output=True, text=True
    )
    if done.returncode == SKIPPED:
        pytest.skip("this sandbox does not let root drop its rights")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", [0o555, 0o444, 0o000])
def test_a_folder_without_the_right_to_write_is_told_in_one_sentence(
    closed_folder: Path, mode: int
) -> None:
    path = closed_folder / "out.bin"
    path.write_bytes(b"old")
    closed_folder.chmod(mode)
    printed = as_an_ordinary_user("attempt(check_writable)\nattempt(write_bytes, b'new')", path)
    sentence = f"the folder {closed_folder} is not writable: Permission denied"
    assert printed == f"{sentence} | choose another output\n" * 2
    closed_folder.chmod(0o755)
    assert names(closed_folder) == ["out.bin"]
    assert path.read_bytes() == b"old"


def test_a_file_without_the_right_to_read_is_told_in_one_sentence(closed_folder: Path) -> None:
    path = closed_folder / "secret.json"
    path.write_text("{}")
    path.chmod(0o000)
    printed = as_an_ordinary_user("attempt(read_json, 'a table')", path)
    assert printed == f"{path} cannot be read: Permission denied | \n"


# --- hashes ---------------------------------------------------------------------------------------


def test_hashes_are_those_of_the_standard(tmp_path: Path) -> None:
    assert sha256_of_bytes(b"abc") == SHA256_OF_ABC
    write_bytes(tmp_path / "abc", b"abc")
    assert sha256_of_file(tmp_path / "abc") == SHA256_OF_ABC


def test_a_file_of_several_chunks_hashes_as_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * (3 << 12) + b"rest"
    write_bytes(tmp_path / "long", data)
    assert sha256_of_file(tmp_path / "long") == sha256_of_bytes(data)


def test_what_cannot_be_hashed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*none"):
        sha256_of_file(tmp_path / "none")
    with pytest.raises(ArtifactError, match="is a folder; expected a file"):
        sha256_of_file(tmp_path)
    write_bytes(tmp_path / "file", b"")
    with pytest.raises(ArtifactError, match="cannot be read: Not a directory"):
        sha256_of_file(tmp_path / "file" / "inner")


# --- JSON -----------------------------------------------------------------------------------------


def test_json_comes_back(tmp_path: Path) -> None:
    values = {"a": [1, 2.5, None], "ä": {"b": "x"}}
    write_json(tmp_path / "x.json", values)
    assert read_json(tmp_path / "x.json", "a table") == values
    assert (tmp_path / "x.json").read_bytes().endswith(b"}\n")


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        (b'[{"in": {"b": 1, "b": 1}}]', "the key 'b' stands twice"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": [-Infinity]}', "-Infinity is not a number"),
        (b"", "Expecting value"),
        (b"a text", "Expecting value"),
        (b'{"a": 1} more', "Extra data"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 200_000, "recursion"),
    ],
)
def test_a_file_that_is_not_strict_json_is_refused(
    tmp_path: Path, text: bytes, reason: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(ArtifactError, match=f"x.json is not a table: .*{reason}") as error:
        read_json(path, "a table")
    assert "make it again" in error.value.hint


def test_json_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    whole = json.dumps({"a": [1.5, {"b": "text"}], "c": None}).encode()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(ArtifactError, match="is not a table"):
            read_json(path, "a table")


# --- manifests ------------------------------------------------------------------------------------

MANIFEST = Manifest(
    "table",
    {"graph": Parent("net.onnx", SHA256_OF_ABC)},
    target="cpu",
    options={"method": "minmax", "inputs": [{"shape": [1, 3]}]},
    report={"samples": 8},
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.bin"
    with atomic_artifact(path, MANIFEST, "net.bin.data") as (file, data):
        file.write_bytes(b"abc")
        data.write_bytes(b"weights")
    return path


def test_a_manifest_comes_back_with_the_hashes_of_its_files(written: Path) -> None:
    assert names(written.parent) == ["net.bin", "net.bin.data", "net.bin.json"]
    hashes = {"net.bin": SHA256_OF_ABC, "net.bin.data": sha256_of_bytes(b"weights")}
    assert read_manifest(written) == replace(MANIFEST, files=hashes)


def test_a_sealed_manifest_vouches_for_itself(written: Path) -> None:
    described = written.with_name("net.bin.json")
    assert "digest" not in json.loads(described.read_bytes())
    for _ in range(2):  # what is sealed can be sealed again
        with atomic_artifact(written, read_manifest(written), sealed=True) as (file,):
            file.write_bytes(b"abc")
        text = described.read_text()
        digest = json.loads(text)["digest"]
        assert digest == sha256_of_bytes(text.replace(digest, "0" * 64).encode())
        assert read_manifest(written).digest == digest
    for changed in (text.replace("minmax", "maxmin"), text + " ", text.replace(digest, "0" * 64)):
        described.write_text(changed)
        with pytest.raises(ArtifactError, match=r"net\.bin\.json is not what was sealed"):
            read_manifest(written, verify=False)


@pytest.mark.parametrize("digest", [None, 7, ""])
def test_a_digest_that_is_none_is_refused(written: Path, digest: Any) -> None:
    described = written.with_name("net.bin.json")
    described.write_text(json.dumps(json.loads(described.read_bytes()) | {"digest": digest}))
    with pytest.raises(ArtifactError, match=r"digest is no text|is not what was sealed"):
        read_manifest(written)


def test_a_manifest_says_which_tools_were_at_hand() -> None:
    tools = tool_versions()
    assert tools["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"edgeattn", "numpy", "onnx"} <= tools.keys()
    assert Manifest("graph").tools == tools


def test_a_failure_leaves_all_files_of_an_artefact_as_they_were(written: Path) -> None:
    before = {path.name: path.read_bytes() for path in written.parent.iterdir()}

    def write() -> None:
        with atomic_artifact(written, MANIFEST, "net.bin.data") as (file, data):
            file.write_bytes(b"new")
            data.write_bytes(b"new weights")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert {path.name: path.read_bytes() for path in written.parent.iterdir()} == before


def test_a_manifest_that_cannot_be_written_keeps_its_file_from_being_replaced(
    written: Path,
) -> None:
    before = {path.name: path.read_bytes() for path in written.parent.iterdir()}
    unwritable = replace(MANIFEST, report={"error": float("nan")})

    def write() -> None:
        with atomic_artifact(written, unwritable) as (file,):
            file.write_bytes(b"new")

    with pytest.raises(ValueError, match="not JSON compliant"):
        write()
    assert {path.name: path.read_bytes() for path in written.parent.iterdir()} == before


@pytest.mark.parametrize("name", ["net.bin", "net.bin.data"])
@pytest.mark.parametrize("content", [b"", b"ab", b"abd", b"abc\0", b"weighty"])
def test_a_truncated_or_replaced_file_is_refused(written: Path, name: str, content: bytes) -> None:
    written.with_name(name).write_bytes(content)
    message = f"{name} is not the file that net.bin.json describes: their hashes differ"
    with pytest.raises(ArtifactError, match=message) as error:
        read_manifest(written)
    assert "make it again" in error.value.hint
    assert read_manifest(written, verify=False).kind == "table"


@pytest.mark.parametrize("name", ["net.bin", "net.bin.data", "net.bin.json"])
def test_a_missing_file_of_an_artefact_is_named(written: Path, name: str) -> None:
    written.with_name(name).unlink()
    with pytest.raises(ArtifactError, match=f"there is no file .*{name}$"):
        read_manifest(written)


def test_the_manifest_of_another_file_is_refused(written: Path) -> None:
    other = written.with_name("other.bin")
    other.write_bytes(written.read_bytes())
    shutil.copy(manifest_path(written), manifest_path(other))
    with pytest.raises(ArtifactError, match=r"other.bin is not the file that other.bin.json"):
        read_manifest(other)


@pytest.mark.parametrize("kind", FORMAT_VERSIONS)
@pytest.mark.parametrize("version", [0, 99, "1", None, 1.5])
def test_an_unknown_format_version_is_refused_with_both_versions(kind: str, version: Any) -> None:
    values = Manifest("graph").to_dict() | {"kind": kind, "format_version": version}
    known = FORMAT_VERSIONS[kind]
    message = f"version {version}; this edgeattn reads version {known}"
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_dict(values, "x.json")


@pytest.mark.parametrize("kind", FORMAT_VERSIONS)
def test_a_new_manifest_has_the_version_of_its_kind(kind: str) -> None:
    assert Manifest(kind).format_version == FORMAT_VERSIONS[kind] > 0
    assert Manifest.from_dict(Manifest(kind).to_dict(), "x.json") == Manifest(kind)


def test_a_missing_format_version_is_refused() -> None:
    values = Manifest("graph").to_dict()
    del values["format_version"]
    with pytest.raises(ArtifactError, match="format version None"):
        Manifest.from_dict(values, "x.json")


@pytest.mark.parametrize(
    "values", [None, [], "graph", 3, {}, {"kind": "net"}, {"kind": None}, {"kind": []}]
)
def test_what_is_no_manifest_is_refused(values: Any) -> None:
    with pytest.raises(ArtifactError, match=r"x.json is not an edgeattn manifest"):
        Manifest.from_dict(values, "x.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"parents": []},
        {"parents": {"graph": "net.onnx"}},
        {"parents": {"graph": {"file": "net.onnx"}}},
        {"parents": {"graph": {"file": "net.onnx", "sha256": "0", "size": 3}}},
        {"options": []},
        {"report": "fine"},
        {"tools": None},
        {"files": ["net.onnx"]},
        {"author": "somebody"},
    ],
)
def test_a_malformed_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"x.json holds a malformed manifest: "):
        Manifest.from_dict(Manifest("graph").to_dict() | changes, "x.json")


def test_a_manifest_reads_no_file_outside_its_folder(written: Path) -> None:
    outside = written.parent.parent / "outside.bin"
    outside.write_bytes(b"abc")
    values = read_json(manifest_path(written), "a manifest")
    values["files"] |= {f"../{outside.name}": SHA256_OF_ABC}
    write_json(manifest_path(written), values)
    with pytest.raises(ArtifactError, match=r"there is no file .*outside.bin"):
        read_manifest(written)
    outside.unlink()


# --- data folders ---------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the package lies in a folder of its own."""
    package = tmp_path / "site-packages" / "edgeattn"
    package.mkdir(parents=True)
    monkeypatch.setattr(artifacts, "__file__", str(package / "artifacts.py"))
    return package


def test_this_installation_finds_its_data() -> None:
    for name in ("calib", "plugins"):
        assert data_folder(name).is_dir()


def test_a_checkout_keeps_its_data_beside_the_package(package: Path) -> None:
    (package.parent / "pyproject.toml").touch()
    for folder in (package.parent / "calib", package / "_data" / "calib"):
        folder.mkdir(parents=True)
    assert data_folder("calib") == package.parent / "calib"


def test_a_wheel_keeps_its_data_inside_the_package(package: Path) -> None:
    (package / "_data" / "calib").mkdir(parents=True)
    (package.parent / "calib").mkdir()  # somebody else's package of that name
    assert data_folder("calib") == package / "_data" / "calib"


def test_missing_data_is_told_even_beside_a_package_of_that_name(package: Path) -> None:
    (package.parent / "calib").mkdir()
    with pytest.raises(ArtifactError, match="data folder calib is not installed") as error:
        data_folder("calib")
    assert "reinstall" in error.value.hint
