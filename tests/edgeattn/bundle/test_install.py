"""A bundle becomes a sealed engine, or nothing at all; a sealed engine is what was sealed."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeattn
from edgeattn.arrays import write_arrays
from edgeattn.artifacts import read_manifest, sha256_of_bytes, sha256_of_file
from edgeattn.bundle import archive
from edgeattn.bundle.install import build_from_bundle
from edgeattn.bundle.read import Bundle
from edgeattn.engine import seal
from edgeattn.errors import (
    ArtifactError,
    BuildError,
    EdgeAttnError,
    MissingDependencyError,
    StaleEngineError,
)
from tests.edgeattn.bundle.bundles import listing
from tests.graphs import logits_of

X = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)


def refused(
    said: str, error: type[EdgeAttnError], bundle: Path, output: Path, **options: Any
) -> EdgeAttnError:
    before = listing(output.parent)
    with pytest.raises(error, match=said) as caught:
        build_from_bundle(bundle, output, **options)
    assert listing(output.parent) == before
    assert "\n" not in caught.value.message
    return caught.value


def repacked(bundle: Path, **changes: Any) -> None:
    """Write a bundle anew, with parts of its manifest, or files by name, exchanged."""
    with Bundle.open(bundle) as opened:
        values = opened.manifest.to_dict()
        files = {entry.name: opened.read(entry.name) for entry in opened.manifest.entries}
    for name, content in changes.pop("files", {}).items():
        files[name] = content
        for entry in values["entries"]:
            if entry["name"] == name:
                entry |= {"sha256": sha256_of_bytes(content), "size": len(content)}
    manifest = (json.dumps(values | changes) + "\n").encode()
    archive.write_archive(bundle, [("manifest.json", manifest), *files.items()])


def test_the_engine_runs_and_computes_what_the_graph_does(made: Path) -> None:
    with edgeattn.load(made / "sealed.engine") as engine:
        np.testing.assert_allclose(engine.run({"x": X})["logits"], logits_of(X), rtol=1e-5)


def test_its_manifest_says_what_it_was_verified_with_and_where(made: Path) -> None:
    manifest = read_manifest(made / "sealed.engine")
    assert manifest.parents["bundle"].file == "net.zip"
    assert manifest.parents["bundle"].sha256 == sha256_of_file(made / "net.zip")
    sealed = manifest.report["seal"]
    assert sealed["machine"] == platform.machine()
    assert sealed["signed_by"] == ""
    (check,) = sealed["golden"]
    assert (check["output"], check["verdict"]) == ("logits", "ok")
    assert check["found"] <= check["allowed"]["rms"]
    assert len(manifest.digest) == 64


def test_by_default_it_gets_the_bundles_name(folder: Path) -> None:
    assert build_from_bundle(folder / "net.zip") == folder / "net.engine"
    assert {"net.engine", "net.engine.json"} < set(listing(folder))


def test_equal_bundles_give_equal_engines(folder: Path) -> None:
    build_from_bundle(folder / "net.zip", folder / "a.engine")
    build_from_bundle(folder / "net.zip", folder / "b.engine")
    assert (folder / "a.engine").read_bytes() == (folder / "b.engine").read_bytes()


def test_an_engine_for_the_cpu_in_place_of_tensorrt_is_no_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edgeattn.engine.build.importlib.util.find_spec", lambda name: None)
    build_from_bundle(folder / "net.zip", folder / "b.engine", engine="auto")
    said = "cpu, since TensorRT is not installed here"
    assert read_manifest(folder / "b.engine").report["engine_choice"] == said
    assert [r.message for r in caplog.records] == [f"{folder / 'net.zip'} is built for the {said}"]
    assert "engine_choice" not in read_manifest(folder / "sealed.engine").report


def test_it_may_be_verified_against_the_graph_too(folder: Path) -> None:
    build_from_bundle(folder / "net.zip", verify=True)
    names = [check["name"] for check in read_manifest(folder / "net.engine").report["verify"]]
    assert "reference" in names


def test_the_seal_names_the_key(folder: Path) -> None:
    build_from_bundle(folder / "signed.zip", folder / "b.engine", public_key=folder / "public.pem")
    with Bundle.open(folder / "signed.zip", folder / "public.pem") as bundle:
        expected = bundle.signed_by
    assert read_manifest(folder / "b.engine").report["seal"]["signed_by"] == expected


# --- refusals: nothing is written -----------------------------------------------------------------


def test_an_unsigned_bundle_is_not_built_where_a_key_is_given(folder: Path) -> None:
    key = folder / "public.pem"
    refused("is not signed", ArtifactError, folder / "net.zip", folder / "b.engine", public_key=key)


def test_a_damaged_bundle_is_not_built(folder: Path) -> None:
    whole = bytearray((folder / "net.zip").read_bytes())
    whole[len(whole) // 2] ^= 4
    (folder / "net.zip").write_bytes(whole)
    refused("bundle", ArtifactError, folder / "net.zip", folder / "b.engine")


def test_an_engine_that_misses_its_golden_outputs_is_not_put_in_place(
    folder: Path, tmp_path: Path
) -> None:
    with Bundle.open(folder / "net.zip") as bundle:
        shape = (8, 3)
        assert bundle.manifest.manifest.report["golden_samples"] == shape[0]
    write_arrays(tmp_path / "other.npz", {"logits": np.ones(shape, np.float32)})
    other = (tmp_path / "other.npz").read_bytes()
    repacked(folder / "net.zip", files={"golden/outputs.npz": other})
    before = (folder / "sealed.engine").read_bytes()
    said = r"the engine misses the golden outputs of .*net\.zip: logits is \d+"
    refused(said, BuildError, folder / "net.zip", folder / "sealed.engine")
    assert (folder / "sealed.engine").read_bytes() == before


def test_golden_tensors_that_are_none_are_refused(folder: Path) -> None:
    repacked(folder / "net.zip", files={"golden/inputs.npz": b"no archive"})
    refused("is not a whole .npz file", EdgeAttnError, folder / "net.zip", folder / "b.engine")


def test_a_graph_that_is_none_is_refused(folder: Path) -> None:
    repacked(folder / "net.zip", files={"graph/graph.onnx": b"no graph"})
    refused("is not", EdgeAttnError, folder / "net.zip", folder / "b.engine")


def test_a_recipe_of_a_later_version_is_refused(folder: Path) -> None:
    repacked(folder / "net.zip", build={"engine": "quantum"})
    said = "says how to build its engine in a way that this edgeattn does not know"
    refused(said, ArtifactError, folder / "net.zip", folder / "b.engine")


def test_an_engine_of_tensorrt_needs_tensorrt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeattn.engine.build.importlib.util.find_spec", lambda name: None)
    said = "TensorRT is not installed"
    bundle, output = folder / "net.zip", folder / "b.engine"
    refused(said, MissingDependencyError, bundle, output, engine="tensorrt")


def test_the_bundle_is_not_written_over(folder: Path) -> None:
    bundle = folder / "net.zip"
    refused("is the bundle to build from", ArtifactError, bundle, bundle)


def test_a_folder_that_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no folder"):
        build_from_bundle(folder / "net.zip", folder / "none/b.engine")


# --- sealed engines -------------------------------------------------------------------------------


def flips(folder: Path, name: str, step: int) -> list[int]:
    """Flip a bit of every `step`-th byte of a file; returns where the engine loads all the same."""
    path, undetected = folder / name, []
    whole = path.read_bytes()
    for position in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7  # never the eighth: a text of JSON stays ASCII
        path.write_bytes(damaged)
        try:
            edgeattn.load(folder / "sealed.engine").close()
            undetected.append(position)
        except ArtifactError as err:
            assert "\n" not in err.message  # noqa: PT017
    path.write_bytes(whole)
    edgeattn.load(folder / "sealed.engine").close()
    return undetected


def test_a_flipped_bit_in_any_byte_of_a_sealed_engine_is_seen(folder: Path) -> None:
    assert not flips(folder, "sealed.engine", 1)
    assert not flips(folder, "sealed.engine.json", 5)


@pytest.mark.slow
def test_a_flipped_bit_in_any_byte_of_its_manifest_is_seen(folder: Path) -> None:
    assert not flips(folder, "sealed.engine.json", 1)


@pytest.mark.parametrize("cut", [1, 100, 600])
@pytest.mark.parametrize("name", ["sealed.engine", "sealed.engine.json"])
def test_a_truncated_sealed_engine_is_refused(folder: Path, name: str, cut: int) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-cut])
    with pytest.raises(ArtifactError):
        edgeattn.load(folder / "sealed.engine")


def test_a_changed_seal_says_what_to_do(folder: Path) -> None:
    path = folder / "sealed.engine.json"
    path.write_text(path.read_text().replace('"verdict": "ok"', '"verdict": "OK"'))
    with pytest.raises(ArtifactError, match="is not what was sealed") as caught:
        edgeattn.load(folder / "sealed.engine")
    assert "build the engine again from its bundle" in caught.value.hint


PLACES = {
    "machine": ("vax", "was verified on a processor of the kind vax, and here it is "),
    "l4t": ("36.4.3", r"was verified on L4T 36\.4\.3, and here it is 36\.4\.4"),
    "onnxruntime": ("0.1", r"was verified with ONNX Runtime 0\.1, and here it is "),
}


@pytest.mark.parametrize("what", PLACES)
def test_a_sealed_engine_runs_where_it_was_verified_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    there, said = PLACES[what]
    real = seal.place_of
    with monkeypatch.context() as patched:
        patched.setattr(
            "edgeattn.bundle.install.place_of", lambda target: real(target) | {what: there}
        )
        build_from_bundle(folder / "net.zip", folder / "b.engine")
    monkeypatch.setattr(seal, "l4t_release", lambda: "36.4.4")
    with pytest.raises(StaleEngineError, match=said) as caught:
        edgeattn.load(folder / "b.engine")
    assert "edgeattn build net.zip -o" in caught.value.hint
    assert "--rebuild-if-needed" in caught.value.hint


@pytest.mark.parametrize(("there", "here"), [("36.4.3", ""), ("", "36.4.3")])
def test_where_a_container_hides_the_release_a_warning_tells(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, there: str, here: str
) -> None:
    monkeypatch.setattr(seal, "l4t_release", lambda: there)
    build_from_bundle(folder / "net.zip", folder / "b.engine")
    edgeattn.load(folder / "b.engine").close()
    assert not caplog.records
    monkeypatch.setattr(seal, "l4t_release", lambda: here)
    edgeattn.load(folder / "b.engine").close()
    (record,) = caplog.records
    shown = [release or "of an unknown release" for release in (there, here)]
    assert f"was verified on L4T {shown[0]}, and here it is {shown[1]}" in record.message


def test_a_seal_that_lacks_something_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeattn.bundle.install.place_of", lambda target: {})
    build_from_bundle(folder / "net.zip", folder / "b.engine")
    with pytest.raises(ArtifactError, match=r"the seal of .*b\.engine is malformed"):
        edgeattn.load(folder / "b.engine")
