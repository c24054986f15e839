"""What a board is told when a bundle becomes a TensorRT engine: options, target, plugin, log.

TensorRT is played by a scripted double of `edgeattn.build`: it records what it is told and writes
bytes that mean nothing; golden outputs are computed by the CPU engine in its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeattn.artifacts import Manifest, atomic_artifact, read_manifest, sha256_of_file
from edgeattn.bundle import install, plugins
from edgeattn.bundle.install import build_from_bundle
from edgeattn.bundle.recipe import BundledLibrary
from edgeattn.bundle.write import write_bundle
from edgeattn.engine.load import load as load_engine
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.plan import log_path
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError, PluginError, TargetError
from edgeattn.plugin.build import PluginBuild
from tests.edgeattn.bundle.bundles import attention, listing


@dataclass
class Board:
    """A board with TensorRT 10.3, played.

    Attributes:
        fails: Whether TensorRT refuses to build.
        architectures: SM numbers of its GPUs.
        requests: What TensorRT was asked for.
        compiled: Source folders that the plugin was compiled from, and what was in them.
        has_headers: Whether the plugin can be compiled.
    """

    folder: Path
    fails: bool = False
    architectures: tuple[int, ...] = (87,)
    requests: list[TensorRtRequest] = field(default_factory=list)
    compiled: list[set[str]] = field(default_factory=list)
    has_headers: bool = True

    def build(self, graph: Path, output: Path, **options: Any) -> Path:
        assert options["engine"] == "tensorrt"
        self.requests.append(options["tensorrt"])
        log_path(output).write_text("what TensorRT said")
        if self.fails:
            raise BuildError("TensorRT built no engine", f"all is in {log_path(output)}")
        plugin = options["tensorrt"].options.plugin
        used = [] if plugin is None else [{"file": str(plugin), "sha256": sha256_of_file(plugin)}]
        manifest = Manifest("engine", target="tensorrt", report={"plugin": used})
        with atomic_artifact(output, manifest) as (plan,):
            plan.write_bytes(b"a plan")
        self.graph = load_engine(graph)  # before its folder goes
        return output

    def load(self, engine: Path) -> Any:
        assert engine.read_bytes() == b"a plan"
        manifest = Manifest("engine", target="tensorrt")
        self.graph._manifest = manifest  # type: ignore[attr-defined]
        return self.graph

    def compile(self, *, source: Path) -> PluginBuild:
        self.compiled.append({p.relative_to(source).as_posix() for p in source.rglob("*")})
        (self.folder / "libedgeattn_plugin.so").write_bytes(b"compiled here")
        files = {"libedgeattn_plugin.so": ""} if self.has_headers else {}
        return PluginBuild(
            self.folder, files, "", (), "", "", "", "", "", notes=("there are no headers",)
        )


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    (tmp_path / "cache").mkdir()
    board = Board(tmp_path / "cache")
    version = TensorRtVersion.parse("10.3.0")
    monkeypatch.setattr(install, "installed_version", lambda: version)
    monkeypatch.setattr(install, "choose_engine", lambda engine: ("tensorrt", ""))
    monkeypatch.setattr(install, "build", board.build)
    monkeypatch.setattr(install, "load", board.load)
    monkeypatch.setattr(plugins, "build_plugin", board.compile)
    for module in (install, plugins):
        monkeypatch.setattr(module, "local_architectures", lambda: board.architectures)
        monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    return board


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two plugin libraries, of Orin and of Thor; what they are is told and not read."""
    (tmp_path / "libraries").mkdir()
    described = {
        "orin": BundledLibrary("plugin/orin/lib.so", "aarch64", (87,), 10),
        "thor": BundledLibrary("plugin/thor/lib.so", "aarch64", (110,), 10),
    }
    monkeypatch.setattr(
        "edgeattn.bundle.write.describe_library", lambda path, targets: described[path.name]
    )
    for name in described:
        (tmp_path / "libraries" / name).write_bytes(f"library of {name}".encode())
    return [tmp_path / "libraries" / name for name in described]


def bundle_in(tmp_path: Path, **options: Any) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir(exist_ok=True)
    write_bundle(attention(folder / "net.onnx"), **options)
    return folder / "net.zip"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "net.engine"


def test_options_reach_tensorrt_as_they_were_given(board, tmp_path, output):
    options = TensorRtOptions(optimization_level=5, tf32=False)
    asked = TensorRtRequest(options, attention="native", require_precision="fp32")
    build_from_bundle(bundle_in(tmp_path, tensorrt=asked), output)
    assert board.requests == [asked]
    assert board.compiled == []


def test_the_plugin_is_compiled_from_the_bundles_source(board, tmp_path, output):
    build_from_bundle(bundle_in(tmp_path), output)
    (source,) = board.compiled
    assert {"CMakeLists.txt", "include/edgeattn/edgeattn.h"} < source
    assert set(listing(output.parent)) == {
        "net.engine", "net.engine.json", "net.engine.log", "net.plugin.so",
    }  # fmt: skip
    assert (output.parent / "net.plugin.so").read_bytes() == b"compiled here"


def test_the_plugin_stands_beside_the_engine_and_its_manifest_knows(board, tmp_path, output):
    build_from_bundle(bundle_in(tmp_path), output)
    manifest = read_manifest(output)
    library = output.parent / "net.plugin.so"
    expected = {"file": str(library.absolute()), "sha256": sha256_of_file(library)}
    assert manifest.report["plugin"] == [expected]
    assert manifest.files["net.plugin.so"] == expected["sha256"]
    assert manifest.report["seal"]["golden"][0]["verdict"] == "ok"
    assert manifest.report["seal"]["onnxruntime"] == ""
    assert len(manifest.digest) == 64


@pytest.mark.parametrize(("architecture", "name"), [(87, "orin"), (110, "thor")])
def test_the_library_of_this_gpu_is_taken(board, tmp_path, output, libraries, architecture, name):
    board.architectures = (architecture,)
    bundle = bundle_in(tmp_path, libraries=libraries)
    build_from_bundle(bundle, output)
    assert board.compiled == []
    assert (output.parent / "net.plugin.so").read_text() == f"library of {name}"


def test_without_a_library_for_this_gpu_the_source_is_compiled(board, tmp_path, output, libraries):
    board.architectures = (89, 120)
    build_from_bundle(bundle_in(tmp_path, libraries=libraries[:1], plugin="source"), output)
    assert len(board.compiled) == 1


def test_without_source_the_driver_compiles_what_a_library_has(board, tmp_path, output, libraries):
    board.architectures = (89, 120)
    build_from_bundle(bundle_in(tmp_path, libraries=libraries[:1]), output)
    assert (output.parent / "net.plugin.so").read_text() == "library of orin"


def refused(said: str, error: type[Exception], bundle: Path, output: Path) -> Any:
    before = listing(output.parent)
    with pytest.raises(error, match=said) as caught:
        build_from_bundle(bundle, output)
    assert listing(output.parent).keys() - {"net.engine.log"} == before.keys()
    return caught.value


def test_a_bundle_of_libraries_for_others_is_refused(board, tmp_path, output, libraries):
    board.architectures = (90,)
    bundle = bundle_in(tmp_path, libraries=libraries[1:])
    said = "holds plugin/thor/lib.so, and none of them is for this machine: aarch64, sm_90"
    refused(said, PluginError, bundle, output)


@pytest.mark.parametrize(
    "library",
    [
        BundledLibrary("plugin/lib.so", "x86_64", (87,), 10),
        BundledLibrary("plugin/lib.so", "aarch64", (87,), 11),
    ],
)
def test_a_library_for_another_processor_or_tensorrt_is_refused(
    board, tmp_path, output, libraries, monkeypatch, library
):
    monkeypatch.setattr("edgeattn.bundle.write.describe_library", lambda path, targets: library)
    bundle = bundle_in(tmp_path, libraries=libraries[:1])
    refused(r"none of them is for this machine: .* TensorRT 10", PluginError, bundle, output)


def test_a_bundle_without_plugin_takes_the_boards_own(board, tmp_path, output):
    build_from_bundle(bundle_in(tmp_path, plugin="none"), output)
    assert board.requests[0].options.plugin is None
    assert "net.plugin.so" not in listing(output.parent)


def test_a_plugin_that_cannot_be_compiled_says_why(board, tmp_path, output):
    board.has_headers = False
    error = refused("there are no headers", PluginError, bundle_in(tmp_path), output)
    assert "libnvinfer-headers-dev" in error.hint


def test_a_bundle_for_other_boards_is_refused(board, tmp_path, output):
    bundle = bundle_in(tmp_path, targets=["jetson-thor", "desktop"])
    said = r"net\.zip is for jetson-thor, desktop; this machine is aarch64, sm_87"
    assert "--engine cpu" in refused(said, TargetError, bundle, output).hint
    assert board.requests == []


def test_a_bundle_for_this_board_is_built(board, tmp_path, output):
    bundle = bundle_in(tmp_path, targets=["jetson-thor", "jetson-orin-nano"])
    assert build_from_bundle(bundle, output) == output


def test_what_tensorrt_said_is_kept_where_a_build_fails(board, tmp_path, output):
    board.fails = True
    error = refused("TensorRT built no engine", BuildError, bundle_in(tmp_path), output)
    assert error.hint == f"all is in {output}.log"
    assert Path(f"{output}.log").read_text() == "what TensorRT said"


def test_an_engine_of_tensorrt_that_misses_its_golden_outputs_is_not_put_in_place(
    board, tmp_path, output, monkeypatch
):
    real = board.load

    def wrong(engine: Path) -> Any:
        loaded = real(engine)
        run = loaded.run
        monkeypatch.setattr(loaded, "run", lambda x: {k: v * 1.1 for k, v in run(x).items()})
        return loaded

    monkeypatch.setattr(install, "load", wrong)
    refused("misses the golden outputs of .*: y is 1", BuildError, bundle_in(tmp_path), output)
