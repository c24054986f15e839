"""Building with real compilers: what comes out, what the cache keeps, and what it never shows."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeattn.errors import ArtifactError, PluginError
from edgeattn.plugin import build as build_module
from edgeattn.plugin.build import (
    KERNELS,
    KERNELS_VARIABLE,
    PLUGIN,
    PLUGIN_VARIABLE,
    PluginBuild,
    build_plugin,
    find_kernel_library,
    find_plugin_library,
)
from edgeattn.plugin.elf import read_library
from edgeattn.plugin.source import source_sha256
from edgeattn.plugin.toolchain import find_cuda_program
from tests.edgeattn.plugin.tiny_source import tiny_headers, tiny_source


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of one's own; returns its folder of libraries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    monkeypatch.delenv(PLUGIN_VARIABLE, raising=False)
    return tmp_path / "cache/edgeattn/plugins"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PluginBuild]:
    """A folder with a tiny source, its build and the build's own cache."""
    folder = tmp_path_factory.mktemp("built")
    source, headers = tiny_source(folder / "plugins"), tiny_headers(folder / "headers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return folder, build_plugin([110, 87], source=source, tensorrt_include=headers)


def restored(folder: Path, cache: Path) -> tuple[Path, Path]:
    """Copy a build's cache; returns source and headers that it was made from."""
    shutil.copytree(folder / "cache/edgeattn", cache.parent)
    return folder / "plugins", folder / "headers"


def append(source: Path, code: str) -> None:
    """Add code to the kernel's file."""
    file = source / "launch/double.cu"
    file.write_text(file.read_text() + code)


@pytest.mark.nvcc
def test_both_libraries_hold_what_was_asked_for(built: tuple[Path, PluginBuild]) -> None:
    folder, build = built
    assert build.plugin is not None
    assert (build.machine, build.architectures) == (platform.machine(), (87, 110))
    assert (build.tensorrt, build.cached) == ("10.3.0", False)
    kernels, plugin = read_library(build.kernels), read_library(build.plugin)
    assert kernels.has_device_code
    assert kernels.build_info == {
        "version": build.version,
        "kind": "cuda",
        "abi_version": 1,
        "cuda": build.cuda,
        "architectures": [87, 110],
        "source_sha256": source_sha256(folder / "plugins"),
    }
    assert kernels.plugin_info is None
    assert plugin.plugin_info is not None
    assert plugin.plugin_info["tensorrt"] == "10.3.0"
    assert plugin.plugin_info["op_type"] == "MultiScaleWindowAttention"
    # Nothing of the CUDA runtime inside is seen from outside.
    assert {name for name in kernels.exports if not name.startswith("edgeattn_")} == set()
    assert plugin.exports - kernels.exports == {"getCreators", "setLoggerFinder"}


@pytest.mark.nvcc
def test_there_is_machine_code_of_each_gpu_and_ptx_of_the_newest(
    built: tuple[Path, PluginBuild],
) -> None:
    cuobjdump = find_cuda_program("cuobjdump")
    if cuobjdump is None:
        pytest.skip("needs cuobjdump")
    listed = [
        subprocess.run([cuobjdump, option, built[1].kernels], capture_output=True, text=True).stdout
        for option in ("-lelf", "-lptx")
    ]
    assert [("sm_87" in text, "sm_110" in text) for text in listed] == [(True, True), (False, True)]


@pytest.mark.nvcc
def test_the_same_build_is_not_made_twice_and_o_gives_a_copy(
    built: tuple[Path, PluginBuild], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, headers = restored(built[0], cache)
    monkeypatch.setattr(build_module, "compile_libraries", None)
    again = build_plugin(
        [87, 110], source=source, tensorrt_include=headers, output=tmp_path / "new/lib"
    )
    assert again.cached
    assert again.kernels == tmp_path / "new/lib" / KERNELS
    for name, digest in built[1].files.items():
        assert (tmp_path / "new/lib" / name).read_bytes() == (built[1].folder / name).read_bytes()
        assert again.files[name] == digest
    json.dumps(again.to_dict())


@pytest.mark.nvcc
def test_a_damaged_entry_of_the_cache_is_built_again(
    built: tuple[Path, PluginBuild], cache: Path
) -> None:
    source, headers = restored(built[0], cache)
    entry = cache / built[1].folder.name
    (entry / KERNELS).write_bytes(b"half a library")
    again = build_plugin([87, 110], source=source, tensorrt_include=headers)
    assert not again.cached
    assert again.folder == entry
    assert read_library(entry / KERNELS).build_info


@pytest.mark.nvcc
def test_what_the_libraries_depend_on_gives_another_entry(
    built: tuple[Path, PluginBuild], cache: Path, tmp_path: Path
) -> None:
    source, headers = tiny_source(tmp_path / "plugins"), tiny_headers(tmp_path / "headers")
    builds = [build_plugin([87], source=source)]
    builds += [build_plugin([87], source=source, tensorrt_include=headers)]
    append(source, "// another source\n")
    builds += [build_plugin([87], source=source)]
    assert not any(build.cached for build in builds)
    assert len({build.folder for build in builds}) == 3
    assert builds[0].plugin is None
    assert any("the TensorRT plugin is left out" in note for note in builds[0].notes)
    assert {path.name for path in cache.iterdir()} == {build.folder.name for build in builds} | {
        "work"
    }


@pytest.mark.nvcc
def test_an_error_of_the_compiler_is_one_sentence_and_leaves_no_entry(
    cache: Path, tmp_path: Path
) -> None:
    source = tiny_source(tmp_path / "plugins")
    append(source, "int unused(int a) { return undeclared; }\n")
    with pytest.raises(PluginError, match=r"compiling the kernels failed: .*undeclared") as error:
        build_plugin([87], source=source)
    log = Path(error.value.hint.removeprefix("the whole output is in "))
    assert "undeclared" in log.read_text()
    assert [path.name for path in cache.iterdir()] == ["work"]


@pytest.mark.nvcc
def test_a_warning_is_an_error(cache: Path, tmp_path: Path) -> None:
    source = tiny_source(tmp_path / "plugins")
    append(source, "int two(int unused) { return 2; }\n")
    with pytest.raises(PluginError, match="unused"):
        build_plugin([87], source=source)


BUILD = """
import sys
from pathlib import Path
from edgeattn.plugin.build import build_plugin
print(build_plugin([87], source=Path(sys.argv[1])).cached)
"""


@pytest.mark.nvcc
def test_processes_that_ask_for_the_same_build_compile_it_once(cache: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tiny_source(tmp_path / "plugins"))]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate()[0].strip() for process in processes]
    assert sorted(printed) == ["False", "True", "True"]


@pytest.mark.nvcc
def test_a_killed_build_leaves_no_entry_and_the_next_one_starts_anew(
    cache: Path, tmp_path: Path
) -> None:
    source = tiny_source(tmp_path / "plugins")
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(source)], start_new_session=True, stdout=subprocess.PIPE
    )
    with process:
        while not any((cache / "work").glob("*/.unfinished")):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert [path.name for path in cache.iterdir()] == ["work"]
    work = next((cache / "work").glob("*/.unfinished")).parent
    (work / "trap").touch()
    assert not build_plugin([87], source=source).cached
    assert not (work / "trap").exists()
    assert not (work / ".unfinished").exists()


@pytest.mark.nvcc
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_compiled(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "_find_or_build", lambda *_: pytest.fail("compiled"))
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be made"):
        build_plugin([87], output=tmp_path / "file/lib")
    (tmp_path / "lib" / KERNELS).mkdir(parents=True)
    with pytest.raises(ArtifactError, match="is a folder; expected a file to write"):
        build_plugin([87], output=tmp_path / "lib")


def entry(cache: Path, name: str, architectures: tuple[int, ...], **changes: str) -> Path:
    """Put an entry into the cache as a build leaves it."""
    folder = cache / name
    folder.mkdir(parents=True)
    files = {}
    for library in (KERNELS, PLUGIN):
        (folder / library).write_text(name)
        files[library] = build_module.sha256_of_file(folder / library)
    record = {
        "files": files,
        "machine": platform.machine(),
        "architectures": architectures,
        "cuda": "13.0.88",
        "tensorrt": "10.3.0",
        "compiler": "g++ 12",
        "source_sha256": source_sha256(build_module.plugin_source()),
        "version": "0.1.0",
    }
    (folder / "build.json").write_text(json.dumps(record | changes))
    return folder


def test_the_library_of_this_machines_gpus_is_found_and_no_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "local_architectures", lambda: (89, 86))
    assert find_kernel_library() is None
    entry(cache, "orin", (87,))
    entry(cache, "other_source", (86,), source_sha256="0" * 64)
    entry(cache, "other_machine", (86,), machine="riscv64")
    (entry(cache, "damaged", (86,)) / KERNELS).write_text("half a library")
    assert find_kernel_library() is None
    old, new = entry(cache, "old", (80,)), entry(cache, "new", (86,))
    os.utime(old / "build.json", (1, 1))
    assert find_kernel_library() == new / KERNELS
    assert find_plugin_library() == new / PLUGIN
    assert find_plugin_library(10) == new / PLUGIN
    assert find_plugin_library(1) is None
    assert find_plugin_library(11) is None
    monkeypatch.setattr(build_module, "local_architectures", lambda: ())
    assert find_kernel_library() is None


def test_a_variable_names_the_library_whatever_the_machine(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path / "mine.so"))
    with pytest.raises(PluginError, match=rf"{KERNELS_VARIABLE} names .*mine.so, and there is no"):
        find_kernel_library()
    (tmp_path / "mine.so").touch()
    assert find_kernel_library() == tmp_path / "mine.so"
    assert find_plugin_library() is None
    monkeypatch.setenv(PLUGIN_VARIABLE, str(tmp_path / "mine.so"))
    assert find_plugin_library(11) == tmp_path / "mine.so"


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeattn.plugin.cache import locked

    (tmp_path / "file").touch()
    with (
        pytest.raises(PluginError, match="is not writable") as error,
        locked(tmp_path / "file/lock"),
    ):
        pass
    assert "XDG_CACHE_HOME" in error.value.hint
