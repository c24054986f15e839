"""Bundles made by hand, with Python's own zipfile: what a hostile or a careless tool would make."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.graphs import from_text
from tests.graphs import save as save_graph

ROLES = ("graph", "preprocess", "golden-inputs", "golden-outputs")
FILES = {f"{role}.bin": role.encode() * 3 for role in ROLES}
STORED_FILE = 0o100644 << 16


def entry(name: str, content: bytes, role: str) -> dict[str, Any]:
    """Describe a file as a manifest does."""
    return {
        "name": name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "role": role,
    }


def manifest_of(entries: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """Write a manifest down, key by key."""
    values = {
        "manifest": {"kind": "bundle", "format_version": 1, "tools": {}},
        "name": "net",
        "entries": list(entries),
        "build": {},
        "tolerances": {"cpu": {"y": {"rms": 0.1, "peak": 0.2, "reason": "none"}}},
    }
    return values | changes


def plain_entries() -> list[dict[str, Any]]:
    """Describe `FILES`."""
    return [
        entry(name, content, role)
        for (name, content), role in zip(FILES.items(), ROLES, strict=True)
    ]


def info_of(name: str, mode: int = STORED_FILE, method: int = zipfile.ZIP_STORED) -> Any:
    """Describe a member as the archives of the toolkit do."""
    info = zipfile.ZipInfo(name)  # of 1 January 1980
    info.external_attr, info.compress_type, info.create_system = mode, method, 3
    return info


def zip_by_hand(
    path: Path,
    values: Mapping[str, Any],
    files: Sequence[tuple[Any, bytes]] | Mapping[str, bytes] = tuple(FILES.items()),
) -> Path:
    """Write an archive with zipfile: the manifest, then files by name or `ZipInfo`."""
    members = files.items() if isinstance(files, Mapping) else files
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info_of("manifest.json"), (json.dumps(values, indent=2) + "\n").encode())
        for name, content in members:
            archive.writestr(info_of(name) if isinstance(name, str) else name, content)
    return path


def attention(path: Path) -> Path:
    """Write a graph of one attention node: x `[1, 8, 8, 36]` to y `[1, 8, 8, 12]`."""
    spec = AttentionSpec(4, 3, (HeadGroup(2, (4, 3), (2, 1)), HeadGroup(1, 0, head_offset=2)))
    model = from_text("g (float[1,8,8,36] x) => (float[1,8,8,12] y) { n = Neg(x) }")
    model.opset_import.add(domain="edgeattn", version=1)
    model.graph.node.append(make_attention_node(spec, ["n"], "y", "layer.attention"))
    return save_graph(model, path)


def listing(folder: Path) -> dict[str, int]:
    """List all files below a folder with their sizes, to see that nothing was written."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def write_keys(folder: Path, key: Any) -> Path:
    """Write `key.pem` and `public.pem`; returns the first."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "public.pem").write_bytes(public)
    return folder / "key.pem"
