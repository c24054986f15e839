"""Versions that do not go together: each is found, by its level, with something to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from edgeattn.deploy import software
from edgeattn.deploy.board import Board, read_board
from edgeattn.deploy.findings import Finding
from edgeattn.deploy.software import (
    check_board_software,
    check_loader_path,
    check_plugin,
    check_python,
    check_tensorrt,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import PluginError
from tests.edgeattn.deploy.boards import NEEDED, Written, driver, recorded

PYCUDA = json.dumps({"cuda": 12060, "gpus": [["Orin", 8, 7, 1]]})
WORKING: dict[str, Any] = {"open_driver": driver(12060, 87), "tensorrt": "10.3.0", "pycuda": PYCUDA}
ORIN = Board("NVIDIA Jetson AGX Orin Developer Kit", "36.4.7", "36.4.7")


@pytest.fixture(autouse=True)
def plugin_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "check_plugin", lambda version: iter(()))


def by_topic(findings: Iterable[Finding]) -> dict[str, Finding]:
    found = {finding.topic: finding for finding in findings}
    for finding in found.values():
        assert finding.level in ("ok", "note") or finding.fix, finding
    return found


def machine(**changes: Any) -> Written:
    packages = NEEDED | {"pycuda": "2022.2.2", "cuda-python": "12.6.2"}
    debian = {"dpkg-query --show --showformat=${Version} libnvinfer10": "10.3.0.30-1+cuda12.5"}
    defaults = {"root": Path("/nowhere"), "environ": {}, "python": "3.10.12"}
    defaults |= {"commands": debian, "probes": WORKING, "packages": packages}
    return Written(**(defaults | changes))


def test_a_board_as_flashed_is_fine() -> None:
    recording = recorded("agx-orin-6", probes=WORKING)
    board = read_board(recording)
    assert board is not None
    found = by_topic(
        [
            *check_board_software(recording, board),
            *check_python(recording, board),
            *check_tensorrt(recording, board),
        ]
    )
    assert not {f.topic for f in found.values() if f.level in ("warning", "error")}
    assert found["JetPack"].text.endswith("package nvidia-jetpack 6.2.1: JetPack 6.2.1")
    assert found["CUDA"].text == "TensorRT for CUDA 12, driver for 12.6"
    assert found["NumPy"].text == "NumPy 1.26.4 goes with TensorRT 10.3"
    assert found["pycuda"].text == "2022.2.2, sees Orin"
    assert "graphs" in found["cuda-python"].text


@pytest.mark.parametrize(
    ("numpy", "tensorrt", "level"),
    [
        ("1.26.4", "10.3.0", "ok"),
        ("2.0.0", "10.3.0", "error"),
        ("2.4.6", "10.15.1.29", "error"),
        ("2.4.6", "10.16.2.10", "ok"),
        ("2.4.6", "11.0.0", "ok"),
    ],
)
def test_numpy_2_needs_tensorrt_10_16(numpy: str, tensorrt: str, level: str) -> None:
    here = machine(
        packages=machine().packages | {"numpy": numpy}, probes=WORKING | {"tensorrt": tensorrt}
    )
    finding = by_topic(check_tensorrt(here, None))["NumPy"]
    assert finding.level == level
    assert level == "ok" or finding.fix == "pip install 'numpy<2'"


def test_missing_packages_are_named_with_the_command() -> None:
    packages = {name: version for name, version in NEEDED.items() if name not in ("onnx", "rich")}
    finding = by_topic(check_python(machine(packages=packages), None))["packages"]
    assert (finding.level, finding.fix) == ("error", "pip install onnx rich")
    bare = {name: version for name, version in NEEDED.items() if name != "torch"}
    optional = by_topic(check_python(machine(packages=bare), None))["optional packages"]
    assert optional == Finding(
        "note", "optional packages", "not installed: torch, to export models"
    )


@pytest.mark.parametrize(
    ("python", "board", "level"),
    [
        ("3.9.2", None, "error"),
        ("3.13.1", None, "ok"),
        ("3.10.12", ORIN, "ok"),
        ("3.12.3", ORIN, "warning"),
    ],
)
def test_pythons_are_judged(python: str, board: Board | None, level: str) -> None:
    finding = by_topic(check_python(machine(python=python), board))["Python"]
    assert finding.level == level
    if level == "warning":
        assert "python3.10 -m venv --system-site-packages" in finding.fix


def test_a_laptop_without_gpu_and_tensorrt_gets_two_notes() -> None:
    here = machine(probes={"open_driver": driver(None)})
    found = by_topic(check_tensorrt(here, None))
    assert [(f.topic, f.level) for f in found.values()] == [
        ("driver", "note"),
        ("TensorRT", "note"),
    ]


@pytest.mark.parametrize(("board", "level"), [(None, "warning"), (ORIN, "error")])
def test_a_gpu_without_tensorrt_is_told_how_to_get_it(board: Board | None, level: str) -> None:
    finding = by_topic(check_tensorrt(machine(probes={"open_driver": driver(12060, 87)}), board))
    assert finding["TensorRT"].level == level
    assert ("apt install" if board else "pip install") in finding["TensorRT"].fix


def test_bindings_that_the_environment_does_not_see_are_found(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    here = machine(root=tmp_path, probes={"open_driver": driver(12060, 87)})
    finding = by_topic(check_tensorrt(here, ORIN))["TensorRT"]
    assert finding.level == "error"
    assert "is in /usr/lib/python3.10/dist-packages" in finding.text
    assert "--system-site-packages" in finding.fix


def test_bindings_without_their_libraries_are_told_apart() -> None:
    missing = ImportError("libnvinfer.so.10: cannot open shared object file")
    here = machine(probes={"open_driver": driver(12060, 87), "tensorrt": missing})
    finding = by_topic(check_tensorrt(here, None))["TensorRT"]
    assert finding.level == "error"
    assert "cannot be imported: ImportError: libnvinfer.so.10" in finding.text
    assert "ldconfig -p | grep nvinfer" in finding.fix
    missing = ImportError("libnvdla_compiler.so: cannot open shared object file: No such file")
    here = machine(probes={"open_driver": driver(12060, 87), "tensorrt": missing})
    assert "nvidia-l4t-dla-compiler" in by_topic(check_tensorrt(here, ORIN))["TensorRT"].fix
    crashed = machine(probes={"open_driver": driver(12060, 87), "tensorrt": OSError("killed")})
    assert "of the same version" in by_topic(check_tensorrt(crashed, None))["TensorRT"].fix


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "12.0.0"])
def test_versions_without_support_are_errors(version: str) -> None:
    finding = by_topic(check_tensorrt(machine(probes=WORKING | {"tensorrt": version}), None))
    assert finding["TensorRT"].level == "error"
    assert "expected 10.3 to 11.x" in finding["TensorRT"].text


def test_a_driver_that_does_not_start_is_an_error() -> None:
    broken = PluginError("the NVIDIA driver does not start: CUDA error 999")
    finding = by_topic(check_tensorrt(machine(probes=WORKING | {"open_driver": broken}), None))
    assert finding["driver"].level == "error"
    assert "CUDA error 999" in finding["driver"].text


@pytest.mark.parametrize(
    ("packages", "cuda", "level"),
    [
        ({}, 12060, "ok"),
        ({}, 11040, "error"),
        ({"tensorrt-cu13": "10.16.2.10"}, 12060, "error"),
        ({"tensorrt-cu13": "10.16.2.10"}, 13020, "ok"),
        ({"tensorrt-cu12-bindings": "10.13.3.9"}, 13020, "ok"),
    ],
)
def test_tensorrt_and_driver_have_to_be_of_fitting_cudas(
    packages: dict[str, str], cuda: int, level: str
) -> None:
    here = machine(
        packages=machine().packages | packages,
        probes=WORKING | {"open_driver": driver(cuda, 87), "tensorrt": "10.16.2.10"},
    )
    finding = by_topic(check_tensorrt(here, None))["CUDA"]
    assert finding.level == level
    if level == "error":
        assert f"the driver supports {cuda // 1000}.{cuda % 1000 // 10}" in finding.text


def test_servers_wheels_on_jetpack_6_are_an_error() -> None:
    here = machine(packages=machine().packages | {"tensorrt-cu12": "10.7.0"})
    finding = by_topic(check_tensorrt(here, ORIN))["TensorRT's package"]
    assert finding.level == "error"
    assert "python3-libnvinfer" in finding.fix


def test_another_tensorrt_than_the_jetpacks_is_noted() -> None:
    here = machine(probes=WORKING | {"tensorrt": "10.7.0"})
    finding = by_topic(check_tensorrt(here, ORIN))["TensorRT's version"]
    assert (finding.level, finding.text) == ("note", "10.7; JetPack 6.2.1 comes with 10.3.0.30")


def test_pycuda_that_is_missing_or_does_not_start_is_an_error() -> None:
    packages = {name: v for name, v in machine().packages.items() if name != "pycuda"}
    finding = by_topic(check_tensorrt(machine(packages=packages), None))["pycuda"]
    assert finding.level == "error"
    assert "/usr/local/cuda/bin" in finding.fix
    broken = WORKING | {"pycuda": ImportError("libcurand.so.10: cannot open shared object file")}
    finding = by_topic(check_tensorrt(machine(probes=broken), None))["pycuda"]
    assert finding.level == "error"
    assert "libcurand.so.10" in finding.text


def test_without_a_gpu_nothing_is_asked_that_only_a_gpu_needs() -> None:
    found = by_topic(check_tensorrt(machine(probes=WORKING | {"open_driver": driver(None)}), None))
    assert found["TensorRT"].level == "ok"
    assert found["NumPy"].level == "ok"
    assert not {"pycuda", "cuda-python", "CUDA"} & found.keys()


def libraries(folder: Path, *versions: str) -> None:
    """Install libnvinfer as packages do: a file, and links to it."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in versions:
        file = folder / f"libnvinfer.so.{version}"
        file.touch()
        link = folder / f"libnvinfer.so.{version.partition('.')[0]}"
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)


LDCONFIG = """123 libs found in cache `/etc/ld.so.cache'
\tlibnvinfer_plugin.so.10 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libnvinfer_plugin.so.10
\tlibnvinfer.so.10 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libnvinfer.so.10
"""


def test_one_tensorrt_on_the_loader_path_is_fine(tmp_path: Path) -> None:
    libraries(tmp_path / "usr/lib/aarch64-linux-gnu", "10.3.0")
    here = machine(root=tmp_path, commands={"ldconfig -p": LDCONFIG})
    (finding,) = check_loader_path(here, TensorRtVersion.parse("10.3.0"))
    assert finding.level == "ok"


@pytest.mark.parametrize("other", ["10.7.0", "8.6.2", "11.0.0"])
def test_two_tensorrts_on_the_loader_path_are_a_warning(tmp_path: Path, other: str) -> None:
    libraries(tmp_path / "usr/lib/aarch64-linux-gnu", "10.3.0")
    libraries(tmp_path / "opt/TensorRT/lib", other)
    here = machine(
        root=tmp_path,
        environ={"LD_LIBRARY_PATH": "/opt/TensorRT/lib::/not/there"},
        commands={"ldconfig -p": LDCONFIG},
    )
    (finding,) = check_loader_path(here, TensorRtVersion.parse("10.3.0.30"))
    assert finding.level == "warning"
    assert f"opt/TensorRT/lib/libnvinfer.so.{other} ({other})" in finding.text
    assert "aarch64" not in finding.text
    assert "LD_LIBRARY_PATH" in finding.fix


def test_no_library_on_the_path_says_nothing() -> None:
    assert not [*check_loader_path(machine(commands={}), TensorRtVersion.parse("11.4.0"))]


@pytest.mark.parametrize(
    ("board", "level", "told"),
    [
        (Board("NVIDIA Jetson Orin NX", ""), "note", "as in a container"),
        (Board("NVIDIA Jetson AGX Orin", "36.3.0"), "error", "older than 10.3"),
        (Board("NVIDIA Jetson Xavier NX", "35.4.1"), "error", "older than 10.3"),
        (Board("NVIDIA Jetson AGX Thor", "40.1.0"), "note", "no release is known"),
        (Board("NVIDIA Jetson AGX Thor", "38.4.0"), "ok", "JetPack 7.1"),
    ],
)
def test_releases_of_a_board_are_judged(board: Board, level: str, told: str) -> None:
    (finding,) = check_board_software(machine(), board)
    assert finding.level == level
    assert told in finding.text


def test_packages_of_another_release_than_the_flashed_one_are_a_warning() -> None:
    """Seen on a board: packages of JetPack 6.2.1 on a system of 6.1."""
    found = by_topic(check_board_software(machine(), Board("Orin", "36.4.0", "36.4.4")))
    assert found["L4T packages"].level == "warning"
    assert "is 36.4.4, and the flashed system is 36.4.0" in found["L4T packages"].text
    assert "L4T packages" not in by_topic(check_board_software(machine(), ORIN))


def test_a_plugin_library_is_looked_for_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = TensorRtVersion.parse("10.3.0")
    monkeypatch.setattr(software, "find_plugin_library", lambda major: None)
    (finding,) = check_plugin(version)
    assert finding.level == "warning"
    assert "edgeattn plugin build" in finding.fix
    alien = tmp_path / "libalien.so"
    alien.write_bytes(b"no library")
    monkeypatch.setattr(software, "find_plugin_library", lambda major: alien)
    (finding,) = check_plugin(version)
    assert (finding.level, str(alien) in finding.text) == ("error", True)
