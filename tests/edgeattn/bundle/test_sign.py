"""Signatures: made by edgeattn and checked by openssl, keys of every wrong kind refused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeattn.bundle.read import Bundle
from edgeattn.bundle.sign import read_private_key, read_public_key
from edgeattn.bundle.write import write_bundle
from edgeattn.errors import ArtifactError, MissingDependencyError
from tests.edgeattn.bundle.bundles import listing, write_keys


def test_a_signed_bundle_opens_with_the_public_key(made: Path) -> None:
    with Bundle.open(made / "signed.zip", made / "public.pem") as bundle:
        assert len(bundle.signature) == 64
        key = serialization.load_pem_public_key((made / "public.pem").read_bytes())
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        prefix = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: SubjectPublicKeyInfo
        assert bundle.signed_by == hashlib.sha256(prefix + raw).hexdigest()
        assert bundle.manifest.manifest.options["key"] == bundle.signed_by


def test_it_opens_without_a_key_too_and_then_nobody_vouches_for_it(made: Path) -> None:
    with Bundle.open(made / "signed.zip") as bundle:
        assert bundle.signed_by == ""


def test_an_unsigned_bundle_is_refused_where_a_signature_is_asked_for(folder: Path) -> None:
    before = listing(folder)
    with pytest.raises(ArtifactError, match=r"net\.zip is not signed; expected a signature with"):
        Bundle.open(folder / "net.zip", folder / "public.pem")
    assert listing(folder) == before


def test_another_key_is_refused(folder: Path) -> None:
    write_keys(folder, Ed25519PrivateKey.generate())
    with pytest.raises(ArtifactError, match=r"signed\.zip is not signed with the key [0-9a-f]{16}"):
        Bundle.open(folder / "signed.zip", folder / "public.pem")


def test_what_was_changed_and_packed_again_is_refused(folder: Path) -> None:
    """The archive is sound and every hash fits: the signature alone tells."""
    from edgeattn.bundle.archive import write_archive

    with zipfile.ZipFile(folder / "signed.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    old = hashlib.sha256(files["labels.txt"]).hexdigest().encode()
    files["labels.txt"] = b"dog\ncat\nowl\n"
    new = hashlib.sha256(files["labels.txt"]).hexdigest().encode()
    assert old in files["manifest.json"]
    files["manifest.json"] = files["manifest.json"].replace(old, new)
    write_archive(folder / "changed.zip", files.items())
    Bundle.open(folder / "changed.zip").close()
    with pytest.raises(ArtifactError, match="or its manifest was changed afterwards"):
        Bundle.open(folder / "changed.zip", folder / "public.pem")


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_openssl_agrees(folder: Path) -> None:
    def openssl(*arguments: str | Path) -> str:
        done = subprocess.run(
            ["openssl", *map(str, arguments)], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with zipfile.ZipFile(folder / "signed.zip") as archive:
        archive.extract("manifest.json", folder)
        archive.extract("manifest.json.sig", folder)
    openssl(
        *("pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-rawin"),
        *("-in", "manifest.json", "-sigfile", "manifest.json.sig"),
    )
    # The commands that the hints name.
    openssl("genpkey", "-algorithm", "ed25519", "-out", "new.pem")
    openssl("pkey", "-in", "new.pem", "-pubout", "-out", "new-public.pem")
    write_bundle(folder / "net.onnx", folder / "new.zip", engine="cpu", key=folder / "new.pem")
    Bundle.open(folder / "new.zip", folder / "new-public.pem").close()


def private_pem(key: object, password: bytes = b"") -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    encoded: bytes = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return encoded


def public_pem(key: object) -> bytes:
    encoded: bytes = key.public_key().public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


PRIVATE: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "public": (lambda: public_pem(ed25519()), "is a public key; expected the private", "genpkey"),
    "encrypted": (
        lambda: private_pem(ed25519(), b"secret"),
        "is encrypted, and no password is asked for",
        "openssl pkey -in",
    ),
    "RSA": (lambda: private_pem(rsa_key()), "is a key of RSA; expected Ed25519", "genpkey"),
    "EC": (lambda: private_pem(ec_key()), "is a key of (EC|EllipticCurve); expected", "genpkey"),
    "empty": (lambda: b"", "is no private key in PEM form", "genpkey"),
    "text": (lambda: b"a text", "is no private key in PEM form", "genpkey"),
    "cut": (lambda: private_pem(ed25519())[:60], "is no private key in PEM form", "genpkey"),
}
PUBLIC: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "private": (lambda: private_pem(ed25519()), "which belongs on no board", "-pubout"),
    "RSA": (lambda: public_pem(rsa_key()), "is a key of RSA; expected Ed25519", "-pubout"),
    "empty": (lambda: b"", "is no public key in PEM form", "-pubout"),
    "text": (lambda: b"a text", "is no public key in PEM form", "-pubout"),
}


@pytest.mark.parametrize("kind", PRIVATE)
def test_what_cannot_sign_is_refused(tmp_path: Path, kind: str) -> None:
    make, said, hint = PRIVATE[kind]
    (tmp_path / "key.pem").write_bytes(make())
    with pytest.raises(ArtifactError, match=said) as caught:
        read_private_key(tmp_path / "key.pem")
    assert hint in caught.value.hint


@pytest.mark.parametrize("kind", PUBLIC)
def test_what_cannot_check_a_signature_is_refused(tmp_path: Path, kind: str) -> None:
    make, said, hint = PUBLIC[kind]
    (tmp_path / "key.pem").write_bytes(make())
    with pytest.raises(ArtifactError, match=said) as caught:
        read_public_key(tmp_path / "key.pem")
    assert hint in caught.value.hint


@pytest.mark.parametrize("read", [read_private_key, read_public_key])
def test_a_missing_key_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        read(tmp_path / "none.pem")


def test_a_bad_key_is_refused_before_anything_is_computed(folder: Path) -> None:
    (folder / "key.pem").write_text("a text")
    before = listing(folder)
    with pytest.raises(ArtifactError, match="is no private key"):
        write_bundle(folder / "none.onnx", folder / "b.zip", key=folder / "key.pem")
    assert listing(folder) == before


def test_without_cryptography_signatures_tell_how_to_install_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(MissingDependencyError, match="signatures need cryptography") as caught:
        Bundle.open(made / "signed.zip", made / "public.pem")
    assert caught.value.hint == 'pip install "edgeattn[deploy]"'
    Bundle.open(made / "signed.zip").close()  # nobody asked
