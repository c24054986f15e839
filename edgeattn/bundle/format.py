"""What a bundle holds, and its manifest: the first file in it, which lists all others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from edgeattn.artifacts import Manifest, json_bytes, parse_json
from edgeattn.bundle.archive import MAX_BYTES, archive_bytes
from edgeattn.errors import ArtifactError

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
SIGNATURE_BYTES = 64  # of Ed25519, RFC 8032

MAX_MANIFEST_BYTES = 4 << 20
MAX_ENTRIES = 4096

# Roles, each with how many entries of a bundle may have it.
GRAPH, WEIGHTS, PORTABLE, TABLE = "graph", "weights", "portable", "table"
PLUGIN_SOURCE, PLUGIN_LIBRARY = "plugin-source", "plugin-library"
PREPROCESS, POSTPROCESS, LABELS = "preprocess", "postprocess", "labels"
GOLDEN_INPUTS, GOLDEN_OUTPUTS = "golden-inputs", "golden-outputs"
_ONE = (GRAPH, PREPROCESS, GOLDEN_INPUTS, GOLDEN_OUTPUTS)
_AT_MOST_ONE = (PORTABLE, TABLE, POSTPROCESS, LABELS)
_MANY = (WEIGHTS, PLUGIN_SOURCE, PLUGIN_LIBRARY)

# No part begins with a dot, so none is `..`; no colon and no backslash, so none is a drive.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}){0,7}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BundleEntry:
    """A file in a bundle.

    Attributes:
        name: Its path in the bundle.
        sha256: Hash of its content.
        size: Its bytes.
        role: What it is there for, one of this module's roles.
    """

    name: str
    sha256: str
    size: int
    role: str


@dataclass(frozen=True)
class Tolerance:
    """How far an engine's output may be from the golden one.

    Both as parts of the output's root mean square, as `edgeattn.engine.reference.Distance` has it.

    Attributes:
        rms: Root mean square of the difference in the sample where it is largest.
        peak: Largest difference of one element.
        reason: Where the figures come from, in words.
    """

    rms: float
    peak: float
    reason: str


@dataclass(frozen=True)
class BundleManifest:
    """What a bundle says of itself.

    Attributes:
        name: What the bundle is called: the graph's name unless another was given.
        entries: Every file in it but the manifest and its signature, in their order.
        build: How the board shall build the engine, see `edgeattn.bundle.recipe`.
        tolerances: How far outputs may be from the golden ones, by engine (`cpu`, `tensorrt`) and
            by output.
        manifest: Where it comes from: parents, tools, options, report.
    """

    name: str
    entries: tuple[BundleEntry, ...]
    build: Mapping[str, Any]
    tolerances: Mapping[str, Mapping[str, Tolerance]]
    manifest: Manifest = field(default_factory=lambda: Manifest("bundle"))

    def to_dict(self) -> dict[str, Any]:
        """Turn the manifest into plain JSON values."""
        return {
            "manifest": self.manifest.to_dict(),
            "name": self.name,
            "entries": [asdict(entry) for entry in self.entries],
            "build": dict(self.build),
            "tolerances": {
                engine: {output: asdict(each) for output, each in by_output.items()}
                for engine, by_output in self.tolerances.items()
            },
        }

    def to_bytes(self) -> bytes:
        """Write the manifest as the bundle holds it."""
        return json_bytes(self.to_dict())

    @classmethod
    def from_dict(cls, values: Any, source: str) -> BundleManifest:
        """Read a manifest from JSON values; nothing in it is trusted.

        Args:
            values: As `to_dict` gives them.
            source: File they come from, for the message.

        Raises:
            ArtifactError: If they are no manifest, of an unknown format version, or list a file
                that no bundle may hold.
        """
        if not isinstance(values, dict) or not isinstance(values.get("manifest"), dict):
            raise ArtifactError(f"the manifest of {source} is not that of a bundle")
        inner = Manifest.from_dict(values["manifest"], source)
        if inner.kind != "bundle":
            raise ArtifactError(f"{source} holds a {inner.kind}; expected a bundle")
        try:
            if values.keys() != {"manifest", "name", "entries", "build", "tolerances"}:
                raise ValueError(f"its keys are {', '.join(values)}")
            manifest = cls(
                check_bundle_name(values["name"]),
                tuple(BundleEntry(**entry) for entry in values["entries"]),
                dict(values["build"]),
                {
                    _text(engine): {
                        _text(output): _tolerance(**each) for output, each in by_output.items()
                    }
                    for engine, by_output in values["tolerances"].items()
                },
                inner,
            )
            check_entries(manifest.entries)
        except (TypeError, AttributeError, ValueError) as err:
            detail = err.message if isinstance(err, ArtifactError) else str(err)
            raise ArtifactError(
                f"{source} has a malformed manifest: {detail}", "make the bundle again"
            ) from err
        return manifest

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> BundleManifest:
        """Read a manifest from the bytes of its file; see `from_dict`."""
        return cls.from_dict(parse_json(data, f"the manifest of {source}", "JSON"), source)

    def of_role(self, role: str) -> tuple[BundleEntry, ...]:
        """List the entries of a role."""
        return tuple(entry for entry in self.entries if entry.role == role)


def check_entries(entries: Sequence[BundleEntry]) -> None:
    """Refuse names that could leave a folder or meet in one, roles and sizes that cannot be.

    Raises:
        ArtifactError: In one sentence.
    """
    if len(entries) > MAX_ENTRIES:
        raise ArtifactError(f"{len(entries)} files are listed; expected at most {MAX_ENTRIES}")
    folders: dict[str, str] = {}
    files = {name: name for name in (MANIFEST, SIGNATURE)}
    for entry in entries:
        check_name(entry.name)
        if not isinstance(entry.sha256, str) or not _SHA256.fullmatch(entry.sha256):
            raise ArtifactError(f"the sha256 of {entry.name} is {entry.sha256!r}")
        if type(entry.size) is not int or entry.size < 0:
            raise ArtifactError(f"the size of {entry.name} is {entry.size!r}")
        folded = entry.name.casefold()
        if folded in files:
            raise ArtifactError(f"{files[folded]} and {entry.name} are one file on some systems")
        files[folded] = entry.name
        for parent in PurePosixPath(folded).parents:
            folders[str(parent)] = entry.name
    for name in folders.keys() & files.keys():
        raise ArtifactError(f"{files[name]} is a file and the folder of {folders[name]}")
    total = archive_bytes([(entry.name, entry.size) for entry in entries])
    if total > MAX_BYTES:
        raise ArtifactError(f"its files take {total} bytes; expected less than 4 GiB")
    roles = [entry.role for entry in entries]
    for role in roles:
        if role not in (*_ONE, *_AT_MOST_ONE, *_MANY):
            raise ArtifactError(f"there is no role {role!r}")
    for role in (*_ONE, *_AT_MOST_ONE):
        count = roles.count(role)
        if count > 1 or (count == 0 and role in _ONE):
            raise ArtifactError(f"{count} files have the role {role}; expected one")


def check_name(name: Any) -> None:
    """Refuse a path that no entry may have.

    Raises:
        ArtifactError: In one sentence.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = name if isinstance(name, str) and len(name) <= 100 else f"{str(name)[:100]}..."
        raise ArtifactError(
            f"{shown!r} is no name for a file in a bundle: it could leave its folder, or not every "
            "system can write it",
            "names are letters, digits and _ . + - in at most 8 parts, none with a dot before",
        )


def check_bundle_name(name: Any) -> str:
    """Refuse what a bundle may not be called; returns the name.

    Raises:
        ArtifactError: In one sentence.
    """
    check_name(name)
    if "/" in name:
        raise ArtifactError(f"{name!r} is a path and no name for a bundle", "give a name")
    return str(name)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _tolerance(rms: Any, peak: Any, reason: Any) -> Tolerance:
    for value in (rms, peak):
        if not isinstance(value, float) or not 0 < value < float("inf"):
            raise ValueError(f"a tolerance is {value!r}; expected a positive number")
    return Tolerance(rms, peak, _text(reason))
