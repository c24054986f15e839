"""Signatures of bundles: Ed25519 over the manifest, whose hashes cover the rest.

The signature is the plain one of RFC 8032, so that openssl can check it without edgeattn. Keys are
PEM files: PKCS#8 for the private one, SubjectPublicKeyInfo for the public one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import open_for_reading
from edgeattn.errors import ArtifactError, MissingDependencyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_MAKE_KEY = "make one with `openssl genpkey -algorithm ed25519 -out key.pem`"
_MAKE_PUBLIC = "make it with `openssl pkey -in key.pem -pubout -out public.pem`"
_LARGEST_KEY = 1 << 16


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs.

    Raises:
        ArtifactError: If the file is missing, or no private Ed25519 key that can be read as it is.
        MissingDependencyError: If cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    data = _read(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError as err:  # what it raises for a missing password
        raise ArtifactError(
            f"the key {path} is encrypted, and no password is asked for here",
            f"decrypt it first: openssl pkey -in {path} -out plain.pem",
        ) from err
    except Exception as err:  # ValueError, UnsupportedAlgorithm, and what damaged ASN.1 leads to
        if b"PUBLIC KEY" in data:
            raise ArtifactError(
                f"{path} is a public key; expected the private one, which signs", _MAKE_KEY
            ) from err
        raise ArtifactError(f"{path} is no private key in PEM form", _MAKE_KEY) from err
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ArtifactError(f"{path} is a key of {_kind(key)}; expected Ed25519", _MAKE_KEY)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read the key that checks signatures.

    Raises:
        ArtifactError: If the file is missing, or no public Ed25519 key.
        MissingDependencyError: If cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    data = _read(path)
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as err:  # as above
        if b"PRIVATE KEY" in data:
            raise ArtifactError(
                f"{path} is a private key, which belongs on no board; expected the public one",
                _MAKE_PUBLIC,
            ) from err
        raise ArtifactError(f"{path} is no public key in PEM form", _MAKE_PUBLIC) from err
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ArtifactError(f"{path} is a key of {_kind(key)}; expected Ed25519", _MAKE_PUBLIC)
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Name a key by the sha256 of its SubjectPublicKeyInfo; hexadecimal."""
    serialization, _ = _cryptography()
    data = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(data).hexdigest()


def is_signed_by(key: Ed25519PublicKey, signature: bytes, manifest: bytes) -> bool:
    """Tell whether a signature is that of the manifest by a key."""
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> bytes:
    with open_for_reading(path) as stream:
        data: bytes = stream.read(_LARGEST_KEY)
    return data


def _kind(key: Any) -> str:
    return type(key).__name__.strip("_").removesuffix("PrivateKey").removesuffix("PublicKey")


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as err:
        raise MissingDependencyError(
            f"signatures need cryptography, which cannot be imported: {err}",
            'pip install "edgeattn[deploy]"',
        ) from err
    return serialization, ed25519
