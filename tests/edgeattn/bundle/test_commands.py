"""Bundles on the command line: packed, inspected, built and run, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import sha256_of_file
from edgeattn.cli.main import run
from tests.edgeattn.bundle.bundles import FILES, listing, manifest_of, plain_entries, zip_by_hand
from tests.graphs import logits_of

X = np.random.default_rng(4).standard_normal((5, 5)).astype(np.float32)


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "cache"))
    np.savez("in.npz", x=X)
    return folder


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run(arguments)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def done_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(done(capsys, *arguments, "--json"))
    return values


def failed(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run a command that has to fail without leaving a file; returns what it says."""
    before = listing(Path())
    assert run(arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert listing(Path()) == before
    if code == 1:
        error, *hints = captured.err.splitlines()
        assert error.startswith("Error: ")
        assert len(hints) <= 1
    return captured.err


PACK = ("bundle", "net.onnx", "--engine", "cpu", "--labels", "labels.txt", "-o", "b.zip")


def test_the_whole_path_of_a_bundle(here, capsys):
    printed = done(capsys, *PACK, "--key", "key.pem", "--name", "animals")
    assert "wrote b.zip" in printed
    assert "signed          with the key" in printed or "signed  with the key" in printed
    assert "golden-outputs" in printed

    described = done_json(capsys, "inspect", "b.zip")
    assert (described["kind"], described["name"], described["signed"]) == (
        "bundle", "animals", True,
    )  # fmt: skip
    assert described["sha256"] == sha256_of_file(Path("b.zip"))
    assert {entry["role"] for entry in described["entries"]} >= {"graph", "labels"}

    printed = done(capsys, "build", "b.zip", "-o", "b.engine", "--public-key", "public.pem")
    assert "golden logits" in printed
    assert "sealed: it runs where it was verified, and nowhere else" in printed

    for file in ("b.zip", "b.engine"):
        printed = done(capsys, "run", file, "--inputs", "in.npz", "--outputs", "out.npz")
        assert ("owl" in printed or "cat" in printed or "dog" in printed) == (file == "b.zip")
        with np.load("out.npz") as outputs:
            np.testing.assert_allclose(outputs["logits"], logits_of(X), rtol=1e-4, atol=1e-6)


def test_a_bundle_is_measured_and_compared(here, capsys):
    timing = ("--iterations", "1", "--duration", "0")
    measured = done_json(
        capsys, "profile", "signed.zip", *timing, "--no-board", "--public-key", "public.pem"
    )
    assert measured["inputs"] == {"x": [2, 5]}
    compared = done_json(
        capsys, "compare", "net.zip", "sealed.engine", "--inputs", "in.npz", "--no-latency"
    )
    assert compared["figures"]["max_abs_error"] == 0


def test_what_was_packed_is_told_in_json(here, capsys):
    told = done_json(capsys, *PACK, "--seed", "3", "--target", "jetson-thor")
    assert told["file"] == "b.zip"
    assert told["sha256"] == sha256_of_file(Path("b.zip"))
    assert told["manifest"]["options"]["golden"] == "random, seed 3"
    assert told["build"]["targets"] == ["jetson-thor"]
    assert told["tolerances"].keys() == {"cpu", "tensorrt"}


def test_options_of_tensorrt_travel_in_trtexecs_spelling_too(here, capsys):
    told = done_json(
        capsys,
        *("bundle", "--onnx=net.onnx", "--builderOptimizationLevel", "4", "--noTF32"),
        *("--attention", "native", "-o", "b.zip"),
    )
    assert told["build"]["tensorrt"] == {
        "attention": "native",
        "options": {"optimization_level": 4, "tf32": False},
    }


def test_real_samples_may_be_golden(here, capsys):
    told = done_json(capsys, *PACK, "--golden-inputs", "in.npz")
    assert told["manifest"]["report"]["golden_samples"] == len(X)
    assert told["manifest"]["options"]["golden"] == "given"


def test_the_classes_of_samples_are_told(here, capsys):
    names = ["cat", "dog", "owl"]
    expected = [names[i] for i in logits_of(X).argmax(axis=1)]
    asked = ("run", "signed.zip", "--inputs", "in.npz", "--outputs", "out.npz")
    assert done_json(capsys, *asked)["classes"] == expected
    rows = [line.split() for line in done(capsys, *asked).splitlines()]
    assert [row[1] for row in rows if row and row[0] in "01234"] == expected
    assert "classes" not in done_json(capsys, *asked[:1], "net.zip", *asked[2:])


def test_many_samples_are_told_in_json_alone(here, capsys):
    np.savez("in.npz", x=np.repeat(X, 5, axis=0))
    asked = ("run", "signed.zip", "--inputs", "in.npz", "--outputs", "out.npz")
    assert "5 more samples; --json shows them" in done(capsys, *asked)
    assert len(done_json(capsys, *asked)["classes"]) == 25


ASKED = {
    "run": ("run", "net.engine", "--inputs", "in.npz", "--outputs", "out.npz"),
    "profile": ("profile", "net.engine", "--iterations", "1", "--duration", "0", "--no-board"),
}


@pytest.mark.parametrize("verb", ASKED)
def test_a_stale_engine_is_built_again_from_its_bundle(here, capsys, monkeypatch, verb):
    real = __import__("edgeattn.engine.seal", fromlist=["place_of"]).place_of
    with monkeypatch.context() as patched:
        patched.setattr(
            "edgeattn.bundle.install.place_of", lambda target: real(target) | {"machine": "vax"}
        )
        done(capsys, "build", "net.zip")
    asked = ASKED[verb]
    said = failed(capsys, 1, *asked)
    assert "was verified on a processor of the kind vax, and here it is " in said
    assert "hint: build it again: edgeattn build net.zip -o net.engine" in said
    done(capsys, *asked, "--rebuild-if-needed")
    done(capsys, *asked)


REFUSED = {
    "a bundle without a signature": (
        ("build", "net.zip", "-o", "b.engine", "--public-key", "public.pem"),
        "net.zip is not signed",
    ),
    "a run of it": (
        (
            "run",
            "net.zip",
            "--inputs",
            "in.npz",
            "--outputs",
            "o.npz",
            "--public-key",
            "public.pem",
        ),
        "net.zip is not signed",
    ),
    "a damaged bundle": (("build", "damaged.zip", "-o", "b.engine"), "damaged.zip is no whole"),
    "a run of a damaged bundle": (
        ("run", "damaged.zip", "--inputs", "in.npz", "--outputs", "o.npz"),
        "damaged.zip is no whole",
    ),
    "an inspection of it": (("inspect", "damaged.zip"), "damaged.zip is no whole"),
    "a hostile bundle": (("build", "hostile.zip", "-o", "b.engine"), "'../evil' is no name"),
    "a hostile bundle run": (
        ("run", "hostile.zip", "--inputs", "in.npz", "--outputs", "o.npz"),
        "'../evil' is no name",
    ),
    "an unknown board": (("bundle", "net.onnx", "--target", "toaster"), "no target 'toaster'"),
    "a key that is none": (("bundle", "net.onnx", "--key", "labels.txt"), "is no private key"),
    "a library that is none": (
        ("bundle", "net.onnx", "--plugin-library", "labels.txt"),
        "labels.txt is no whole shared library",
    ),
    "labels that do not fit": (("bundle", "net.onnx", "--labels", "in.npz"), "are no UTF-8 text"),
    "a key for a graph": (
        (
            "run",
            "net.onnx",
            "--inputs",
            "in.npz",
            "--outputs",
            "o.npz",
            "--public-key",
            "public.pem",
        ),
        "is no bundle: only bundles are signed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(here, capsys, case):
    whole = bytearray(Path("net.zip").read_bytes())
    whole[-60] ^= 1
    Path("damaged.zip").write_bytes(whole)
    zip_by_hand(Path("hostile.zip"), manifest_of(plain_entries()), FILES | {"../evil": b"x"})
    arguments, said = REFUSED[case]
    assert said in failed(capsys, 1, *arguments)
    assert not Path("../evil").exists()


MISSPELT = {
    "a table for a bundle": (("build", "net.zip", "--table", "t"), "--table is not for a bundle"),
    "a dry run of a bundle": (("build", "net.zip", "--dry-run"), "--dry-run is not for a bundle"),
    "options for a bundle": (
        ("build", "net.zip", "--attention", "native"),
        "options of TensorRT are not for a bundle",
    ),
    "a key for a graph": (
        ("build", "net.onnx", "--public-key", "public.pem"),
        "--public-key is for bundles",
    ),
    "a bundle without its purpose": (
        ("run", "net.engine", "--inputs", "i", "--outputs", "o", "--bundle", "net.zip"),
        "--bundle goes with --rebuild-if-needed",
    ),
    "a machine's option": (("bundle", "net.onnx", "--timing-cache", "t"), "No such option"),
    "a precision flag": (("bundle", "net.onnx", "--fp16"), "precision is in the graph"),
}


@pytest.mark.parametrize("case", MISSPELT)
def test_what_contradicts_itself_is_a_usage_error(here, capsys, case):
    arguments, said = MISSPELT[case]
    assert said in failed(capsys, 2, *arguments)
