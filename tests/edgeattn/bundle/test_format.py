"""The manifest of a bundle: what it holds comes back; what it may not hold is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeattn.bundle.format import BundleEntry, BundleManifest, Tolerance, check_bundle_name
from edgeattn.errors import ArtifactError
from tests.edgeattn.bundle.bundles import entry, manifest_of, plain_entries


def read(values: Any) -> BundleManifest:
    return BundleManifest.from_bytes(json.dumps(values).encode(), "b.zip")


def test_what_is_written_is_read() -> None:
    manifest = read(manifest_of(plain_entries(), build={"engine": "cpu"}))
    assert manifest.name == "net"
    assert manifest.entries == tuple(BundleEntry(**each) for each in plain_entries())
    assert manifest.tolerances == {"cpu": {"y": Tolerance(0.1, 0.2, "none")}}
    assert BundleManifest.from_bytes(manifest.to_bytes(), "b.zip") == manifest
    assert BundleManifest.from_dict(manifest.to_dict(), "b.zip") == manifest


def test_entries_are_found_by_role() -> None:
    more = [entry("a", b"", "weights"), entry("b", b"", "weights")]
    manifest = read(manifest_of(plain_entries() + more))
    assert [each.name for each in manifest.of_role("weights")] == ["a", "b"]
    assert [each.name for each in manifest.of_role("graph")] == ["graph.bin"]
    assert manifest.of_role("labels") == ()


def changed(**changes: Any) -> list[dict[str, Any]]:
    """Describe the files with one entry changed."""
    entries = plain_entries()
    entries[1] |= changes
    return entries


MALFORMED: dict[str, tuple[Any, str]] = {
    "no object": ([], "the manifest of b.zip is not that of a bundle"),
    "no manifest": ({"name": "net"}, "is not that of a bundle"),
    "another kind": (
        manifest_of([], manifest={"kind": "engine", "format_version": 1}),
        "holds a engine; expected a bundle",
    ),
    "a later version": (
        manifest_of([], manifest={"kind": "bundle", "format_version": 2}),
        "has format version 2; this edgeattn reads version 1",
    ),
    "a key more": (manifest_of(plain_entries(), more=1), "its keys are"),
    "a key less": ({"manifest": manifest_of([])["manifest"], "name": "net"}, "its keys are"),
    "a name that is a path": (manifest_of(plain_entries(), name="../net"), "is no name"),
    "a name with a folder": (manifest_of(plain_entries(), name="a/net"), "is a path"),
    "entries that are none": (manifest_of([1]), "malformed"),
    "an entry with a key more": (manifest_of(changed(mode=1)), "malformed"),
    "a hash that is none": (manifest_of(changed(sha256="00")), "the sha256 of preprocess.bin is"),
    "a hash in capitals": (manifest_of(changed(sha256="A" * 64)), "the sha256 of preprocess.bin"),
    "a negative size": (manifest_of(changed(size=-1)), "the size of preprocess.bin is -1"),
    "a fractional size": (manifest_of(changed(size=1.5)), "the size of preprocess.bin is 1.5"),
    "a size that is true": (manifest_of(changed(size=True)), "is True"),
    "an unknown role": (manifest_of(changed(role="script")), "there is no role 'script'"),
    "no graph": (manifest_of(plain_entries()[1:]), "0 files have the role graph; expected one"),
    "two graphs": (
        manifest_of([*plain_entries(), entry("g", b"", "graph")]),
        "2 files have the role graph; expected one",
    ),
    "two tables": (
        manifest_of([*plain_entries(), *(entry(n, b"", "table") for n in "ab")]),
        "2 files have the role table",
    ),
    "a tolerance of zero": (
        manifest_of(plain_entries(), tolerances={"cpu": {"y": {"rms": 0.0, "peak": 1.0}}}),
        "malformed",
    ),
    "an infinite tolerance": (
        manifest_of(
            plain_entries(),
            tolerances={"cpu": {"y": {"rms": 1e400, "peak": 1.0, "reason": ""}}},
        ),
        "is not JSON: Infinity is not a number",
    ),
    "a tolerance in words": (
        manifest_of(
            plain_entries(), tolerances={"cpu": {"y": {"rms": "1", "peak": 1.0, "reason": ""}}}
        ),
        "a tolerance is '1'; expected a positive number",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_manifest_is_refused(case: str) -> None:
    values, said = MALFORMED[case]
    with pytest.raises(ArtifactError, match=said) as caught:
        read(values)
    assert "\n" not in caught.value.message


def test_a_number_beyond_all_numbers_is_no_tolerance() -> None:
    text = json.dumps(manifest_of(plain_entries())).replace("0.1", "1e999")
    with pytest.raises(ArtifactError, match="a tolerance is inf"):
        BundleManifest.from_bytes(text.encode(), "b.zip")


def test_a_key_that_stands_twice_is_refused() -> None:
    text = json.dumps(manifest_of(plain_entries())).replace(
        '"name": "net"', '"name": "a", "name": "b"'
    )
    with pytest.raises(ArtifactError, match="the key 'name' stands twice"):
        BundleManifest.from_bytes(text.encode(), "b.zip")


def test_a_bundle_has_a_plain_name() -> None:
    assert check_bundle_name("net-1.2_b+c") == "net-1.2_b+c"
    for name in ("", ".net", "a b", "a/b", 7):
        with pytest.raises(ArtifactError):
            check_bundle_name(name)
