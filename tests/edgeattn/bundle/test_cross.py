"""A plugin library that was made here travels in a bundle and loads on the board's processor."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgeattn.bundle import plugins
from edgeattn.bundle.plugins import plugin_from_bundle
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import Recipe
from edgeattn.bundle.write import write_bundle
from edgeattn.errors import PluginError
from edgeattn.plugin.build import PluginBuild, build_plugin
from tests.aarch64 import load_on_aarch64
from tests.edgeattn.bundle.bundles import attention
from tests.edgeattn.plugin.tiny_source import tiny_headers, tiny_source
from tests.plugins.plugin_builds import HEADER_SETS, NO_HEADERS

pytestmark = pytest.mark.cross

THOR = "jetson-thor"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> PluginBuild:
    """Cross-build a small kernel with the project's CMake; fetches the CUDA runtime with pip."""
    folder = tmp_path_factory.mktemp("cross")
    return build_plugin(
        target=THOR,
        jetpack="7.2",
        source=tiny_source(folder / "plugins"),
        tensorrt_include=tiny_headers(folder / "headers"),
        download=True,
    )


@pytest.fixture(scope="module")
def bundle(built: PluginBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    assert built.plugin is not None
    graph = attention(folder / "net.onnx")
    write_bundle(graph, targets=[THOR], libraries=[built.plugin])
    return folder / "net.zip"


def test_the_bundle_knows_where_the_library_runs(bundle: Path) -> None:
    with Bundle.open(bundle) as opened:
        (library,) = Recipe.from_dict(opened.manifest.build, "b").libraries
        (entry,) = opened.manifest.of_role("plugin-library")
        assert not opened.manifest.of_role("plugin-source")
    assert (library.machine, library.architectures, library.tensorrt) == ("aarch64", (110,), 10)
    assert library.name == entry.name == "plugin/aarch64-sm110-trt10/libedgeattn_plugin.so"


def test_it_loads_on_the_boards_processor(
    built: PluginBuild, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(plugins, "local_architectures", lambda: (110,))
    with Bundle.open(bundle) as opened:
        libraries = Recipe.from_dict(opened.manifest.build, "b").libraries
        library = plugin_from_bundle(opened, libraries, 10, tmp_path)
    assert library is not None
    assert built.plugin is not None
    assert library.read_bytes() == built.plugin.read_bytes()
    said = load_on_aarch64(library, tmp_path)
    assert said["architectures"] == [110]


@pytest.mark.slow
def test_the_plugin_itself_travels_and_loads(tmp_path: Path) -> None:
    headers = [folder for version, folder in HEADER_SETS.items() if version.startswith("10.")]
    if not headers:
        pytest.skip(NO_HEADERS)
    built = build_plugin(target=THOR, jetpack="7.2", tensorrt_include=headers[-1], download=True)
    assert built.plugin is not None
    write_bundle(attention(tmp_path / "net.onnx"), libraries=[built.plugin], targets=[THOR])
    with Bundle.open(tmp_path / "net.zip") as opened:
        (entry,) = opened.manifest.of_role("plugin-library")
        library = opened.extract(entry.name, tmp_path / "out")
    assert load_on_aarch64(library, tmp_path)["architectures"] == [110]


def test_it_is_not_given_to_another_machine(bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened:
        libraries = Recipe.from_dict(opened.manifest.build, "b").libraries
        with pytest.raises(PluginError, match="none of them is for this machine"):
            plugin_from_bundle(opened, libraries, 11, tmp_path)


def test_it_is_not_packed_for_another_board(built: PluginBuild, tmp_path: Path) -> None:
    assert built.plugin is not None
    graph, targets = attention(tmp_path / "net.onnx"), ["jetson-orin-nano", "desktop"]
    said = "is for aarch64 and sm_110, and the bundle for jetson-orin-nano, desktop"
    with pytest.raises(PluginError, match=said):
        write_bundle(graph, targets=targets, libraries=[built.plugin])


def test_the_kernels_alone_are_no_plugin(built: PluginBuild, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="is no TensorRT plugin but a library of kernels"):
        write_bundle(attention(tmp_path / "net.onnx"), libraries=[built.kernels])
