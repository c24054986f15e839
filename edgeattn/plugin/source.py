"""The native source that comes with the package, and its hash."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

from edgeattn.artifacts import data_folder, sha256_of_file

# What the libraries are made of; `plugins/cmake/source_hash.cmake` names the same folders.
SOURCE_FOLDERS = ("include", "launch", "trt")


def plugin_source() -> Path:
    """Find `plugins/`: beside the package in a checkout, inside it once installed.

    Raises:
        ArtifactError: If it is not there.
    """
    return data_folder("plugins")


def package_version() -> str:
    """Tell edgeattn's version."""
    return importlib.metadata.version("edgeattn")


def source_sha256(source: Path, parts: Iterable[str] = SOURCE_FOLDERS) -> str:
    """Hash files of a source folder: the sha256 of what `sha256sum` would print of them.

    One line `<sha256>  <path>` for each file, sorted by path.

    Args:
        source: The folder.
        parts: Files and folders in it to take in.

    Raises:
        ArtifactError: If a file cannot be read.
    """
    paths = []
    for part in parts:
        found = source / part
        paths += [found] if found.is_file() else [p for p in found.rglob("*") if p.is_file()]
    names = sorted(path.relative_to(source).as_posix() for path in paths)
    lines = "".join(f"{sha256_of_file(source / name)}  {name}\n" for name in names)
    return hashlib.sha256(lines.encode()).hexdigest()
