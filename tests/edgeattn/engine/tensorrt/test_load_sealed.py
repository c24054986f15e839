"""Sealed TensorRT engines: refused before TensorRT sees them, in one sentence, with the fix.

TensorRT's runtime is played by `tests.tensorrt_runtime_double`, the GPU by the stand-in of pycuda.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, Parent, atomic_artifact, sha256_of_bytes
from edgeattn.engine import seal
from edgeattn.engine.load import load
from edgeattn.engine.seal import place_of
from edgeattn.engine.tensorrt import load as load_module
from edgeattn.engine.tensorrt import run as run_module
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.errors import ArtifactError, StaleEngineError
from tests import tensorrt_runtime_double
from tests.pycuda_standin import Ledger
from tests.tensorrt_runtime_double import DataType, Script, Tensor

X = Tensor("x", DataType.FLOAT, (-1, 3), (((1, 3), (8, 3)),))
Y = Tensor("y", DataType.FLOAT, (-1, 2), is_input=False)
LIBRARY = b"a plugin library"


@pytest.fixture
def script(gpu: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    plant = lambda known: {"y": np.zeros((known["x"][0], 2), np.float32)}  # noqa: E731
    script = Script(gpu, (X, Y), plant)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_runtime_double.install(script))
    monkeypatch.setattr(load_module, "find_plugin_library", lambda major: None)
    monkeypatch.setattr(run_module, "load_plugin", lambda registry, path: None)
    yield script
    gc.collect()


def sealed(folder: Path, place: dict[str, str] | None = None, **report: Any) -> Path:
    """Write an engine of TensorRT 10.3 and the stand-in's GPU as a bundle's build would seal it."""
    library = folder / "net.plugin.so"
    library.write_bytes(LIBRARY)
    told = {
        "tensorrt": "10.3",
        "gpu": {"name": "Stand-in", "architecture": 87, "driver_cuda": "12.6"},
        "plugin": [{"file": str(library), "sha256": sha256_of_bytes(LIBRARY)}],
        "seal": place_of("tensorrt") | (place or {}) | {"signed_by": "", "golden": []},
    }
    manifest = Manifest(
        "engine",
        {"bundle": Parent("net.zip", "0" * 64)},
        target="tensorrt",
        options={"tensorrt": TensorRtOptions().to_dict()},
        report=told | report,
    )
    with atomic_artifact(folder / "net.engine", manifest, sealed=True) as (plan,):
        plan.write_bytes(b"a plan")
    return folder / "net.engine"


def test_it_runs_where_it_was_sealed(script: Script, tmp_path: Path) -> None:
    load(sealed(tmp_path)).close()
    assert script.plan == b"a plan"


H200 = {"name": "NVIDIA H200", "architecture": 90, "driver_cuda": "13.0"}
ELSEWHERE: dict[str, tuple[dict[str, Any], str]] = {
    "TensorRT": ({"tensorrt": "10.13.3"}, r"was built with TensorRT 10\.13\.3, and 10\.3 is"),
    "major": ({"tensorrt": "11.1"}, r"was built with TensorRT 11\.1, and 10\.3 is installed"),
    "SM": ({"gpu": H200}, r"was built on NVIDIA H200 \(sm_90\), and this GPU is .* \(sm_87\)"),
    "L4T": ({"place": {"l4t": "36.5.0"}}, r"was verified on L4T 36\.5\.0, and here it is 36\.4\.3"),
    "machine": ({"place": {"machine": "vax"}}, "was verified on a processor of the kind vax"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_elsewhere_it_is_refused_with_the_fix(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    report, said = ELSEWHERE[what]
    engine = sealed(tmp_path, **report)
    monkeypatch.setattr(seal, "l4t_release", lambda: "36.4.3")
    with pytest.raises(StaleEngineError, match=said) as caught:
        load(engine)
    assert "\n" not in caught.value.message
    assert caught.value.hint.startswith(f"build it again: edgeattn build net.zip -o {engine}")
    assert script.plan == b""  # TensorRT was not asked


@pytest.mark.parametrize("content", [None, b"another library"])
def test_without_its_plugin_it_is_refused_with_the_fix(
    script: Script, tmp_path: Path, content: bytes | None
) -> None:
    engine = sealed(tmp_path)
    (tmp_path / "net.plugin.so").unlink()
    if content:
        (tmp_path / "net.plugin.so").write_bytes(content)
    with pytest.raises(StaleEngineError, match="plugin library") as caught:
        load(engine)
    assert "--rebuild-if-needed" in caught.value.hint
    assert script.plan == b""


@pytest.mark.parametrize("name", ["net.engine", "net.engine.json"])
def test_a_flipped_bit_anywhere_is_seen(script: Script, tmp_path: Path, name: str) -> None:
    engine = sealed(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for position in range(0, len(whole), 1 if name == "net.engine" else 23):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 7
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load(engine)
