"""The wheel of the edgeattn that runs here, for the boards: of an installation or of a checkout.

It is packed from the installed files, so that neither a network nor a build tool is needed, and
its bytes are the same each time: unchanged source is not sent again.

References:
    The binary distribution format of packaging.python.org; PEP 660 for editable installations.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edgeattn
from edgeattn.errors import ArtifactError

_PYTHON_TAG = "py3-none-any"
_WHEEL = f"Wheel-Version: 1.0\nGenerator: edgeattn\nRoot-Is-Purelib: true\nTag: {_PYTHON_TAG}\n"
# What an installer adds.
_NOT_OURS = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "WHEEL"}
_TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip file can hold
_CACHES = "__pycache__"


def wheel_name() -> str:
    """Give the wheel's file name."""
    return f"edgeattn-{_distribution().version}-{_PYTHON_TAG}.whl"


def pack_wheel() -> bytes:
    """Pack the wheel.

    Raises:
        ArtifactError: If edgeattn is not installed, or its files are not to be found.
    """
    files = dict(sorted(package_files())) | dict(sorted(distribution_files()))
    info = _info(_distribution())
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    rows = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    return pack(files)


def pack(files: dict[str, bytes]) -> bytes:
    """Pack files into a zip file whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def package_files() -> Iterator[tuple[str, bytes]]:
    """Give the package's files under the names that they have in a wheel.

    Raises:
        ArtifactError: If a folder of a checkout is missing.
    """
    package = Path(edgeattn.__file__).parent
    yield from _below(package, "edgeattn")
    project = package.parent / "pyproject.toml"
    if project.is_file():  # a checkout: what a build would add
        for source, target in _included(project).items():
            yield from _below(package.parent / source, target)


def distribution_files() -> Iterator[tuple[str, bytes]]:
    """Give the installation's own files, name and version among them, but what an installer adds.

    Raises:
        ArtifactError: If edgeattn is not installed.
    """
    distribution = _distribution()
    for file in distribution.files or ():
        parts = file.parts
        if parts[0] == _info(distribution) and parts[-1] not in _NOT_OURS:
            yield "/".join(parts), Path(str(file.locate())).read_bytes()


def _below(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    if path.is_file():
        yield name, path.read_bytes()
        return
    if not path.is_dir():
        raise ArtifactError(f"{path} is missing in the checkout", "check it out again")
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if file.is_file() and _CACHES not in parts and not any(p.startswith(".") for p in parts):
            yield "/".join((name, *parts)), file.read_bytes()


def _included(project: Path) -> dict[str, str]:
    """Read what hatchling puts into the wheel besides the package."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    values = tomllib.loads(project.read_text(encoding="utf-8"))
    wheel: dict[str, Any] = values["tool"]["hatch"]["build"]["targets"]["wheel"]
    included: dict[str, str] = wheel["force-include"]
    return included


def _info(distribution: importlib.metadata.Distribution) -> str:
    return f"edgeattn-{distribution.version}.dist-info"


def _distribution() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("edgeattn")
    except importlib.metadata.PackageNotFoundError as err:
        raise ArtifactError(
            "edgeattn is not installed here, it only runs here: there is nothing to send",
            "pip install it, or pip install -e its checkout",
        ) from err


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
