"""The files of the toolkit: atomic writing, hashes, and the manifest that each one carries.

A manifest says what a file is, what made it, from which parents (by sha256) and with which
options. Readers refuse what they cannot trust: an unknown format version, a wrong hash, a
truncated file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeattn.errors import ArtifactError

Kind = Literal[
    "graph", "table", "engine", "report", "trt_calib_cache", "calibration-state", "bundle"
]

# Raised when a reader of the previous version could misread the file.
FORMAT_VERSIONS: dict[Kind, int] = {
    "graph": 1,
    "table": 2,
    "engine": 1,
    "report": 1,
    "trt_calib_cache": 1,
    "calibration-state": 1,
    "bundle": 1,
}

_NO_DIGEST = "0" * 64

_TOOLS = ("edgeattn", "numpy", "onnx", "onnxruntime", "onnxscript", "onnxsim", "torch")


@dataclass(frozen=True)
class Parent:
    """The file another one was made from.

    Attributes:
        file: Its name, without the folder.
        sha256: Hash of its content, weights included.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a file is and where it comes from.

    Attributes:
        kind: What the file holds.
        parents: Files it was made from, by role (`model`, `graph`, `table`, `data`).
        target: Device or engine it was made for; empty if any.
        options: Options it was made with.
        report: What the step that made it found: counts, errors, decisions.
        tools: Versions of the packages at hand when it was made.
        files: sha256 of each file described, by name; empty in a manifest embedded in its file.
        digest: sha256 of the manifest's own file with these digits as zeros, so that no byte of it
            can change unseen; empty unless it is sealed, see `atomic_artifact`.
        format_version: Version of the file format; by default the one that this version writes.
    """

    kind: Kind
    parents: dict[str, Parent] = field(default_factory=dict)
    target: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=lambda: tool_versions())
    files: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    format_version: int = 0

    def __post_init__(self) -> None:
        """Give a new manifest the current version of its kind."""
        if self.format_version == 0:
            object.__setattr__(self, "format_version", FORMAT_VERSIONS[self.kind])

    def to_dict(self) -> dict[str, Any]:
        """Turn the manifest into plain JSON values."""
        values = asdict(self)
        if not self.digest:
            del values["digest"]
        return values

    @classmethod
    def from_dict(cls, values: Any, source: str) -> Manifest:
        """Read a manifest from JSON values.

        Args:
            values: As `to_dict` gives them.
            source: File they come from, for the message.

        Raises:
            ArtifactError: If they are not a manifest or of an unknown format version.
        """
        kind = values.get("kind") if isinstance(values, dict) else None
        if not isinstance(kind, str) or kind not in FORMAT_VERSIONS:
            raise ArtifactError(f"{source} is not an edgeattn manifest")
        version, known = values.get("format_version"), FORMAT_VERSIONS[kind]
        if version != known:
            raise ArtifactError(
                f"{source} has format version {version}; this edgeattn reads version {known}",
                "make the file again, or install the edgeattn that made it",
            )
        try:
            parents = {role: Parent(**p) for role, p in values.get("parents", {}).items()}
            manifest = cls(**(values | {"parents": parents}))
        except (TypeError, AttributeError) as err:
            raise ArtifactError(f"{source} holds a malformed manifest: {err}") from err
        for name in ("options", "report", "tools", "files"):
            if not isinstance(getattr(manifest, name), dict):
                raise ArtifactError(f"{source} holds a malformed manifest: {name} is no object")
        if not isinstance(manifest.digest, str):
            raise ArtifactError(f"{source} holds a malformed manifest: digest is no text")
        return manifest


def tool_versions() -> dict[str, str]:
    """Collect the versions of Python and of the installed packages that shape artefacts."""
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def sha256_of_bytes(data: bytes) -> str:
    """Hash bytes; hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash a file; hexadecimal.

    Raises:
        ArtifactError: If the file is missing or unreadable.
    """
    digest = hashlib.sha256()
    with open_for_reading(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def open_for_reading(path: Path) -> Iterator[Any]:
    """Open a file to read bytes.

    Raises:
        ArtifactError: If it is missing, a folder or unreadable.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError as err:
        raise ArtifactError(f"there is no file {path}", "check the path") from err
    except IsADirectoryError as err:
        raise ArtifactError(f"{path} is a folder; expected a file", "check the path") from err
    except OSError as err:
        raise ArtifactError(f"{path} cannot be read: {err.strerror}") from err
    with stream:
        yield stream


def check_writable(path: Path) -> None:
    """Fail early, before long work, if a file could not be written.

    Raises:
        ArtifactError: If the folder is missing or not writable, or the path is a folder.
    """
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder; expected a file to write", "give a file")
        if not folder.is_dir():
            raise ArtifactError(f"there is no folder {folder}", "create it first")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".edgeattn-"):
            pass
    except OSError as err:
        raise ArtifactError(
            f"the folder {folder} is not writable: {err.strerror}", "choose another output"
        ) from err


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well.

    The file appears whole or not at all: it is flushed to disk and renamed. On any exception,
    Ctrl-C included, what stood at `path` before is untouched and nothing is left beside it.

    Raises:
        ArtifactError: If the folder is missing or not writable.
    """
    check_writable(path)
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=".edgeattn-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
        temporary.replace(path)
    except OSError as err:
        raise ArtifactError(f"{path} could not be written: {err.strerror or err}") from err
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON atomically, indented, with a final newline."""
    write_bytes(path, json_bytes(values))


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Write JSON as the files of the toolkit hold it: indented, with a final newline."""
    return (json.dumps(values, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file, refusing duplicate keys and NaN.

    Args:
        path: File to read.
        what: What it should be, for the message: `a calibration table`.

    Raises:
        ArtifactError: If the file is missing or not JSON.
    """
    with open_for_reading(path) as stream:
        return parse_json(stream.read(), str(path), what)


def parse_json(data: bytes, source: str, what: str) -> Any:
    """Read JSON, refusing duplicate keys and NaN.

    Args:
        data: The text.
        source: File it comes from, for the message.
        what: As `read_json`.

    Raises:
        ArtifactError: If it is not JSON.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) != len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"the key {twice[0]!r} stands twice")
        return seen

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a number")

    try:
        return json.loads(data, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as err:
        raise ArtifactError(
            f"{source} is not {what}: {err}", "the file may be truncated; make it again"
        ) from err


def manifest_path(path: Path) -> Path:
    """Where the manifest beside a file stands: `net.onnx` → `net.onnx.json`."""
    return path.with_name(path.name + ".json")


@contextlib.contextmanager
def atomic_artifact(
    path: Path, manifest: Manifest, *beside: str, sealed: bool = False
) -> Iterator[tuple[Path, ...]]:
    """Give temporary paths for a file and others beside it that get their places together.

    All are whole before any is in place; the manifest, which vouches for them by their hashes,
    comes last.

    Args:
        path: The file to write; its manifest goes beside it.
        manifest: What to say of it; `files` is filled in.
        beside: Names of further files, in the same folder.
        sealed: Let the manifest vouch for itself too, by its digest.

    Yields:
        One path for `path` and each name of `beside`.

    Raises:
        ArtifactError: If the folder is missing or not writable.
    """
    names = (path.name, *beside)
    with contextlib.ExitStack() as stack:  # its blocks end in reverse order
        description = stack.enter_context(atomic_path(manifest_path(path)))
        paths = [stack.enter_context(atomic_path(path.with_name(name))) for name in names]
        yield tuple(paths)
        files = {name: sha256_of_file(file) for name, file in zip(names, paths, strict=True)}
        values = manifest.to_dict() | {"files": files}
        if sealed:
            unsealed = json_bytes(values | {"digest": _NO_DIGEST})
            values["digest"] = sha256_of_bytes(unsealed)
        description.write_bytes(json_bytes(values))


def read_manifest(path: Path, *, verify: bool = True) -> Manifest:
    """Read the manifest beside a file and check the file against it.

    Args:
        path: The file described.
        verify: Compare the hashes too, also of the weights that it keeps beside it.

    Raises:
        ArtifactError: If either is missing or malformed, the file is not the one described, or the
            manifest is sealed and was changed.
    """
    described = manifest_path(path)
    with open_for_reading(described) as stream:
        data = stream.read()
    values = parse_json(data, str(described), "a manifest")
    manifest = Manifest.from_dict(values, str(described))
    if "digest" in values:
        digits, zeros = manifest.digest.encode(), _NO_DIGEST.encode()
        if manifest.digest != sha256_of_bytes(data.replace(digits, zeros, 1)):
            raise ArtifactError(
                f"{described} is not what was sealed: its bytes do not have the hash that it tells",
                "it was changed or is damaged; build the engine again from its bundle",
            )
    if verify:
        for name in {path.name: ""} | manifest.files:
            if manifest.files.get(name) != sha256_of_file(path.parent / Path(name).name):
                raise ArtifactError(
                    f"{path.parent / name} is not the file that {described.name} describes: "
                    "their hashes differ",
                    "the file is truncated or was replaced; make it again",
                )
    return manifest


def data_folder(name: str) -> Path:
    """Find a data folder of the project: `calib` or `plugins`.

    In a wheel it is inside the package, in a checkout beside it.

    Raises:
        ArtifactError: If neither holds it.
    """
    package = Path(__file__).parent
    for candidate in (package.parent / name, package / "_data" / name):
        if candidate.is_dir() and (candidate.parent != package.parent or _is_checkout(package)):
            return candidate
    raise ArtifactError(f"the data folder {name} is not installed", "reinstall edgeattn")


def _is_checkout(package: Path) -> bool:
    return (package.parent / "pyproject.toml").is_file()
