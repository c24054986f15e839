"""Open a bundle: everything is checked before anything of it is used.

The file has to be, byte for byte, what the writer would write for what its manifest lists; so one
flipped bit anywhere is seen, and there is nothing else to be careful of: no link, no path, no
compression, no second directory. What another archive says of itself is read only to name its
fault.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from edgeattn.artifacts import atomic_path, open_for_reading
from edgeattn.bundle.archive import (
    CHUNK,
    LOCAL_MAGIC,
    MAX_BYTES,
    STORED,
    Member,
    archive_bytes,
    directory,
    header_bytes,
    listed_members,
    local_header,
)
from edgeattn.bundle.format import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    SIGNATURE_BYTES,
    BundleEntry,
    BundleManifest,
    check_name,
)
from edgeattn.bundle.sign import fingerprint, is_signed_by, read_public_key
from edgeattn.errors import ArtifactError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_READ_BYTES = 64 << 20  # what is larger is extracted, and never in memory as a whole

_SIZE_AT = 22  # in a local file header: where the size stands
_AGAIN = "copy or make the bundle again"


def is_bundle(path: Path) -> bool:
    """Tell whether a file is meant as a bundle, by its name or its first bytes."""
    if path.suffix.lower() == ".zip":
        return True
    with contextlib.suppress(OSError), path.open("rb") as stream:
        start = stream.read(header_bytes(MANIFEST))
        return start.startswith(LOCAL_MAGIC) and start.endswith(MANIFEST.encode())
    return False


class Bundle:
    """A bundle that has been checked. Close it, or use it in a `with` block; see `open`.

    Attributes:
        path: The file.
        manifest: What it says of itself.
        sha256: Hash of the file.
        signature: The manifest's signature; empty if there is none.
        signed_by: Fingerprint of the key that the signature was checked with; empty if it was not.
    """

    def __init__(self, path: Path, stream: BinaryIO, public_key: Path | None) -> None:
        """Check a file that is open; `Bundle.open` is the way in."""
        self.path = path
        self._stream, self._keep = stream, contextlib.ExitStack()
        self._listed: set[str] | None = None
        key = None if public_key is None else read_public_key(public_key)
        data = self._read_manifest()
        self.signature = self._read_signature(len(data))
        # Before the manifest is parsed.
        self.signed_by = "" if key is None else self._check_signature(key, data)
        self.manifest = BundleManifest.from_bytes(data, str(path))
        self._listed = {entry.name for entry in self.manifest.entries}
        self._starts: dict[str, int] = {}
        self.sha256 = self._check_bytes(data)

    @classmethod
    def open(cls, path: Path | str, public_key: Path | None = None) -> Bundle:
        """Open a bundle and check all of it: form, names, sizes, hashes, signature.

        Args:
            path: The file.
            public_key: PEM file of the key that it has to be signed with; none to not ask for a
                signature, whose absence or presence then proves nothing.

        Raises:
            ArtifactError: If it is no bundle, damaged, holds anything that a bundle may not, or is
                not signed with the key.
            MissingDependencyError: If a signature is to be checked without cryptography.
        """
        path = Path(path)
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(open_for_reading(path))
            try:
                bundle = cls(path, stream, public_key)
            except OSError as err:
                raise ArtifactError(f"{path} cannot be read: {err.strerror}") from err
            bundle._keep = stack.pop_all()
        return bundle

    def read(self, name: str) -> bytes:
        """Read a small entry into memory.

        Raises:
            ArtifactError: If there is none of that name, it is larger than `MAX_READ_BYTES`, or the
                file has changed.
        """
        entry = self.entry(name)
        if entry.size > MAX_READ_BYTES:
            raise ArtifactError(
                f"{name} in {self.path} takes {entry.size} bytes; expected at most {MAX_READ_BYTES}"
            )
        return b"".join(self.chunks(name))

    def extract(self, name: str, folder: Path) -> Path:
        """Write an entry to a folder, under its own name, whole or not at all.

        Args:
            name: Its name.
            folder: The folder; those in the name are made in it.

        Raises:
            ArtifactError: If there is none of that name, the file has changed, or the folder cannot
                be written or holds a link that leads out of it.
        """
        target = folder / self.entry(name).name
        for parent in target.relative_to(folder).parents:
            if (folder / parent).is_symlink() and parent != Path():
                raise ArtifactError(
                    f"{folder / parent} is a link, which may lead anywhere", "use an empty folder"
                )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ArtifactError(
                f"the folder {target.parent} cannot be made: {err.strerror}"
            ) from err
        with atomic_path(target) as temporary, temporary.open("wb") as stream:
            for chunk in self.chunks(name):
                stream.write(chunk)
        return target

    def entry(self, name: str) -> BundleEntry:
        """Find an entry.

        Raises:
            ArtifactError: If there is none of that name.
        """
        for entry in self.manifest.entries:
            if entry.name == name:
                return entry
        raise ArtifactError(f"{self.path} holds no {name}")

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read an entry piece by piece, and make sure that it is still what was checked.

        Raises:
            ArtifactError: If there is none of that name, or at the end if the file has changed.
        """
        entry, digest = self.entry(name), hashlib.sha256()
        for chunk in self._content(self._starts[name], entry.size):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != entry.sha256:
            raise ArtifactError(f"{self.path} changed while {name} was read from it", _AGAIN)

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._keep.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _file_bytes(self) -> int:
        return self._stream.seek(0, 2)

    def _content(self, start: int, size: int) -> Iterator[bytes]:
        """Read a part of the file; each piece anew from its place, so that readers may take turns.

        Raises:
            ArtifactError: If the file ends before.
        """
        end = start + size
        while start < end:
            self._stream.seek(start)
            chunk = self._stream.read(min(CHUNK, end - start))
            if not chunk:
                raise ArtifactError(f"{self.path} is truncated", _AGAIN)
            yield chunk
            start += len(chunk)

    def _read_manifest(self) -> bytes:
        """Read the manifest, which says how large everything else is."""
        start = header_bytes(MANIFEST)
        total = self._file_bytes()
        self._stream.seek(0)
        header = self._stream.read(start)
        if header[:4] != LOCAL_MAGIC:
            raise ArtifactError(
                f"{self.path} is no bundle: it does not begin as a zip archive does",
                "`edgeattn bundle` makes them",
            )
        if not header.endswith(MANIFEST.encode()):
            raise self._refusal(f"it does not begin with {MANIFEST}")
        size = int.from_bytes(header[_SIZE_AT : _SIZE_AT + 4], "little")
        if size > MAX_MANIFEST_BYTES:
            raise self._refusal(f"its manifest takes {size} bytes")
        if start + size > total:
            raise ArtifactError(f"{self.path} is truncated: {total} bytes are left of it", _AGAIN)
        data = b"".join(self._content(start, size))
        if header != local_header(Member(MANIFEST, size, zlib.crc32(data))):
            raise self._refusal("its manifest does not have the checksum or the form that it tells")
        return data

    def _read_signature(self, manifest_size: int) -> bytes:
        """Read the signature, if the next file in the archive is called so."""
        start = header_bytes(MANIFEST) + manifest_size
        self._stream.seek(start)
        header = self._stream.read(header_bytes(SIGNATURE))
        if not header.endswith(SIGNATURE.encode()):
            return b""
        return self._stream.read(SIGNATURE_BYTES)

    def _check_signature(self, key: Ed25519PublicKey, manifest: bytes) -> str:
        """Refuse a bundle that is not signed with a key; returns the key's fingerprint."""
        wanted = fingerprint(key)
        if not self.signature:
            raise ArtifactError(
                f"{self.path} is not signed; expected a signature with the key {wanted[:16]}",
                "sign it with `edgeattn bundle --key`, or do not ask for a signature",
            )
        if not is_signed_by(key, self.signature, manifest):
            raise ArtifactError(
                f"{self.path} is not signed with the key {wanted[:16]}, or its manifest was changed"
                " afterwards",
                "get it again from who made it, or name their public key",
            )
        return wanted

    def _check_bytes(self, manifest: bytes) -> str:
        """Compare the whole file with what its manifest says of it; returns its sha256."""
        listed = [(MANIFEST, len(manifest))]
        if self.signature:
            listed.append((SIGNATURE, SIGNATURE_BYTES))
        listed += [(entry.name, entry.size) for entry in self.manifest.entries]
        expected, total = archive_bytes(listed), self._file_bytes()
        if total > MAX_BYTES:
            raise ArtifactError(f"{self.path} takes {total} bytes; bundles end below 4 GiB")
        known = {entry.name: entry for entry in self.manifest.entries}
        whole, members, position = hashlib.sha256(), list[Member](), 0
        for name, size in listed:
            start = position + header_bytes(name)
            if start + size > total:
                break  # the size of the file says the rest
            header = b"".join(self._content(position, header_bytes(name)))
            digest, crc32 = hashlib.sha256(), 0
            whole.update(header)
            for chunk in self._content(start, size):
                digest.update(chunk)
                whole.update(chunk)
                crc32 = zlib.crc32(chunk, crc32)
            member = Member(name, size, crc32)
            if header != local_header(member):
                where = f"{name} is not where its manifest says, or not in the form of a bundle"
                raise self._refusal(where)
            if name in known and digest.hexdigest() != known[name].sha256:
                raise self._refusal(f"{name} does not have the hash that its manifest tells")
            self._starts[name] = start
            members.append(member)
            position = start + size
        if total != expected:
            what = "is truncated" if total < expected else "holds more than its manifest lists"
            raise self._refusal(f"it {what}: {total} bytes are there, {expected} are listed")
        rest = b"".join(self._content(position, total - position))
        if rest != directory(members):
            raise self._refusal("its directory is not that of the files that its manifest lists")
        whole.update(rest)
        return whole.hexdigest()

    def _refusal(self, reason: str) -> ArtifactError:
        """Say why the file is no bundle: what is wrong with it as an archive, or else `reason`."""
        found = _suspicion(self._stream, self._listed)
        return ArtifactError(f"{self.path} is no whole bundle: {found or reason}", _AGAIN)


def _suspicion(stream: BinaryIO, listed: set[str] | None) -> str:
    """Look for what other archives may hold and bundles do not.

    Args:
        stream: The archive.
        listed: Names in the bundle's manifest, if that could be read.

    Returns:
        The first such thing; empty if there is none.
    """
    seen = set[str]()
    for member in listed_members(stream):
        try:
            check_name(member.name)
        except ArtifactError as err:
            return err.message
        if stat.S_ISLNK(member.mode):
            return f"{member.name} is a link"
        if member.name.casefold() in seen:
            return f"{member.name} is in it twice, or beside a name that differs in case alone"
        seen.add(member.name.casefold())
        if member.method != STORED:
            return f"{member.name} is compressed, and a bundle's files are not"
        if listed is not None and member.name not in {*listed, MANIFEST, SIGNATURE}:
            return f"it holds {member.name}, which its manifest does not list"
    return ""
