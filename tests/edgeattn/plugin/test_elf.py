"""Reading libraries from disk: g++ and its linker are the judges of what is in them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgeattn.errors import ArtifactError, MissingDependencyError, PluginError
from edgeattn.plugin.elf import read_library
from tests.edgeattn.plugin.fakes import (
    BUILD_INFO,
    PLUGIN_INFO,
    compile_library,
    plugin_source,
    section,
)

CODE = """
#include <cmath>
#include <string>
extern "C" double seen(double x) { return std::cos(x) + std::to_string(x).size(); }
extern "C" __attribute__((visibility("hidden"))) int unseen() { return 1; }
extern "C" int given_by_somebody_else();
extern "C" __attribute__((weak)) int may_be_missing();
extern "C" int asks() { return given_by_somebody_else() + (may_be_missing ? may_be_missing() : 0); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elf")
    return compile_library(folder / "libplugin.so", plugin_source(CODE))


def test_what_a_library_offers_and_needs(library: Path) -> None:
    elf = read_library(library)
    assert {"seen", "asks", "getCreators", "edgeattn_check"} <= elf.exports
    assert "unseen" not in elf.exports
    assert elf.undefined["cos"].startswith("libm.so") or elf.undefined["cos"].startswith("libc.so")
    assert elf.undefined["given_by_somebody_else"] == ""
    assert "may_be_missing" not in elf.undefined
    assert any(name.startswith("libstdc++.so") for name in elf.needed)
    assert [int(number) for number in elf.glibc.split(".")] >= [2, 2]
    assert not elf.has_device_code


def test_what_a_library_says_of_itself(library: Path) -> None:
    elf = read_library(library)
    assert elf.build_info == BUILD_INFO
    assert elf.plugin_info == PLUGIN_INFO
    import platform

    assert elf.machine == platform.machine()


def test_a_library_of_others_says_nothing(tmp_path: Path) -> None:
    elf = read_library(compile_library(tmp_path / "lib.so", "int one() { return 1; }"))
    assert elf.build_info is None
    assert elf.plugin_info is None


@pytest.mark.parametrize(
    ("values", "said"), [("{", "holds no JSON"), ("[1]", r"holds \[1\]; expected an object")]
)
def test_a_section_that_holds_something_else_is_refused(
    tmp_path: Path, values: str, said: str
) -> None:
    library = compile_library(tmp_path / "lib.so", section(".edgeattn.build_info", values))
    with pytest.raises(PluginError, match=rf"section .edgeattn.build_info of .* {said}"):
        read_library(library)


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(PluginError, match=r"text.so is no whole shared library: Magic number"):
        read_library(text)
    with pytest.raises(ArtifactError, match="there is no file"):
        read_library(tmp_path / "missing.so")
    compile_library(tmp_path / "object.so", "int one() { return 1; }", "-c", "-fno-lto")
    if (tmp_path / "object.so").exists():
        with pytest.raises(PluginError, match=r"no (whole )?shared library"):
            read_library(tmp_path / "object.so")


def test_a_truncated_library_is_refused_wherever_it_ends(library: Path, tmp_path: Path) -> None:
    data = library.read_bytes()
    short = tmp_path / "short.so"
    for size in [*range(0, 2000, 61), *range(2000, len(data) - 1, len(data) // 40)]:
        short.write_bytes(data[:size])
        with pytest.raises(PluginError, match="no whole shared library"):
            read_library(short)


def test_without_pyelftools_the_hint_names_the_extra(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "elftools.elf.elffile", None)
    with pytest.raises(MissingDependencyError, match="pyelftools") as error:
        read_library(library)
    assert 'pip install "edgeattn[plugin]"' in error.value.hint


@pytest.mark.cross
def test_a_library_of_another_machine_is_read_alike(tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    assert compiler
    library = compile_library(tmp_path / "lib.so", plugin_source(CODE), compiler=compiler)
    elf = read_library(library)
    assert elf.machine == "aarch64"
    assert elf.build_info == BUILD_INFO
    assert elf.undefined["given_by_somebody_else"] == ""
