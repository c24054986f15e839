"""The example program: short, compiled for every TensorRT, and run where there is one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import read_manifest
from edgeattn.engine.random_inputs import random_inputs
from tests.graphs import classifier, save
from tests.plugins.plugin_builds import (
    HEADER_SETS,
    NO_HEADERS,
    WARNINGS,
    compile_sources,
    header_flags,
    newest_headers,
)

EXAMPLES = Path(__file__).parents[2] / "plugins/examples"
SOURCE = EXAMPLES / "run_engine.cpp"
VERSIONS = list(HEADER_SETS) or [pytest.param("", marks=pytest.mark.skip(reason=NO_HEADERS))]


def test_it_is_short_enough_to_begin_with() -> None:
    assert len(SOURCE.read_text().splitlines()) < 200


@pytest.mark.parametrize("version", VERSIONS)
def test_it_compiles_without_a_warning(version: str) -> None:
    compile_sources("g++", *WARNINGS, "-fsyntax-only", *header_flags(HEADER_SETS[version]), SOURCE)


def test_it_needs_nothing_but_tensorrt_and_cuda(tmp_path: Path) -> None:
    program = tmp_path / "run_engine.o"
    flags = [*WARNINGS, "-O1", *header_flags(newest_headers())]
    compile_sources("g++", *flags, "-c", SOURCE, "-o", program)
    command = ["nm", "--undefined-only", "--format=posix", str(program)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in listing.splitlines()}
    assert {name for name in names if "nfer" in name} == {"createInferRuntime_INTERNAL"}
    cuda = {name for name in names if name.startswith("cu")}
    assert {"cudaMallocHost", "cudaMemcpyAsync", "cudaStreamSynchronize"} <= cuda


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_it_computes_what_the_engine_computes_from_python(tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", EXAMPLES, "-B", tmp_path / "build"], check=True)
    subprocess.run(["cmake", "--build", tmp_path / "build"], check=True)
    plan = edgeattn.build(save(classifier(2), tmp_path / "net.onnx"), engine="tensorrt")
    with edgeattn.load(plan) as engine:
        inputs = random_inputs(engine.inputs, None, 0)
        expected = engine.run(inputs)
    words = [tmp_path / "build/run_engine", plan, "--outputs", tmp_path]
    for name, array in inputs.items():
        array.tofile(tmp_path / f"{name}.raw")
        words += ["--input", f"{name}={tmp_path / name}.raw"]
    for entry in read_manifest(plan).report["plugin"]:
        words += ["--plugin", entry["file"]]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "latency with copies: median" in done.stdout
    for name, array in expected.items():
        found = np.fromfile(tmp_path / f"{name}.bin", array.dtype).reshape(array.shape)
        np.testing.assert_array_equal(found, array)
