"""TensorRT's headers: the version they tell, in both ways that NVIDIA has written it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.errors import PluginError
from edgeattn.plugin.tensorrt_headers import find_headers

PLAIN = """
#define NV_TENSORRT_MAJOR 10 //!< TensorRT major version.
#define NV_TENSORRT_MINOR 3 //!< TensorRT minor version.
#define NV_TENSORRT_PATCH 0 //!< TensorRT patch version.
"""
BY_NAME = """
#define TRT_MAJOR_ENTERPRISE 11
#define TRT_MINOR_ENTERPRISE 1
#define TRT_PATCH_ENTERPRISE 2
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.
#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE
#define NV_TENSORRT_PATCH TRT_PATCH_ENTERPRISE
"""


def write_headers(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NvInfer.h").touch()
    (folder / "NvInferVersion.h").write_text(version)
    return folder


@pytest.mark.parametrize(("text", "version"), [(PLAIN, "10.3.0"), (BY_NAME, "11.1.2")])
def test_the_version_is_read_from_the_header(tmp_path: Path, text: str, version: str) -> None:
    headers = find_headers(write_headers(tmp_path, text), "x86_64")
    assert headers is not None
    assert headers.version_text == version
    assert headers.major == int(version.partition(".")[0])
    assert headers.folder == tmp_path


def test_a_folder_without_the_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"there is no NvInfer.h in") as error:
        find_headers(tmp_path, "x86_64")
    assert "libnvinfer-headers-dev" in error.value.hint


def test_a_version_that_the_plugin_is_not_written_for_is_refused(tmp_path: Path) -> None:
    for text, found in (
        (PLAIN.replace("MINOR 3", "MINOR 1"), r"10.1.0; the plugin is written for 10.3 to 11"),
        (PLAIN.replace("MAJOR 10", "MAJOR 8"), r"8.3.0"),
        (PLAIN.replace("MAJOR 10", "MAJOR 12"), r"12.3.0"),
    ):
        with pytest.raises(PluginError, match=found):
            find_headers(write_headers(tmp_path, text), "x86_64")


def test_a_header_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not tell TensorRT's version"):
        find_headers(write_headers(tmp_path, "#define NV_TENSORRT_MAJOR\n"), "x86_64")


def test_installed_headers_are_found_for_the_same_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_headers(tmp_path / "include", PLAIN)
    monkeypatch.setenv("TENSORRT_ROOT", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    headers = find_headers(None, "riscv64")
    assert headers is not None
    assert headers.folder == tmp_path / "include"
    assert find_headers(None, "sparc64") is None
