"""What a build was asked for: boards, JetPack releases and compilers that go together or not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgeattn.errors import PluginError, TargetError
from edgeattn.plugin import request as request_module
from edgeattn.plugin.request import resolve_request
from edgeattn.plugin.toolchain import Nvcc, Toolchain
from tests.edgeattn.plugin.fakes import ALL_CODES, fake_nvcc
from tests.edgeattn.plugin.test_tensorrt_headers import BY_NAME, PLAIN, write_headers

OLD_CODES = "80 86 87 89 90"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Choose the machine: its processor, its CUDA and its GPUs."""

    def choose(processor: str = "x86_64", cuda: str = "13.0.88", gpus: tuple[int, ...] = ()):
        codes = ALL_CODES if cuda.startswith("13") else OLD_CODES
        version = tuple(int(number) for number in cuda.split("."))
        nvcc = Nvcc(fake_nvcc(tmp_path / cuda, cuda, codes), version, tmp_path, "system")
        monkeypatch.setattr(platform, "machine", lambda: processor)
        monkeypatch.setattr(request_module, "require_nvcc", lambda: nvcc)
        monkeypatch.setattr(request_module, "local_architectures", lambda: gpus)
        monkeypatch.setattr(
            request_module,
            "find_toolchain",
            lambda nvcc, machine, download: Toolchain(nvcc, machine, Path("cmake"), "g++", ()),
        )
        monkeypatch.setattr(
            request_module,
            "find_headers",
            lambda folder, machine: FIND_HEADERS(folder, machine) if folder else None,
        )

    return choose


FIND_HEADERS = request_module.find_headers


def test_without_a_target_it_is_this_machines_gpu(machine) -> None:
    machine("x86_64", gpus=(89, 86))
    request = resolve_request()
    assert request.architectures == (86, 89)
    assert request.toolchain.machine == "x86_64"
    assert request.cmake_architectures == "86-real;89"


def test_without_a_gpu_it_asks_for_one(machine) -> None:
    machine()
    with pytest.raises(
        PluginError, match="no NVIDIA GPU that would say what to build for"
    ) as error:
        resolve_request()
    assert "--arch 87" in error.value.hint
    assert resolve_request([110, 87]).architectures == (87, 110)


def test_a_target_names_its_gpu_and_machine(machine) -> None:
    machine("x86_64")
    request = resolve_request(target="jetson-thor")
    assert (request.architectures, request.toolchain.machine) == ((110,), "aarch64")
    assert resolve_request(target="desktop").architectures == (80, 86, 89, 90, 100, 120)


def test_an_architecture_that_the_target_does_not_have_is_refused(machine) -> None:
    machine()
    with pytest.raises(TargetError, match="jetson-thor has no GPU of sm_87; expected sm_110"):
        resolve_request([87], target="jetson-thor")
    assert resolve_request([86], target="desktop").architectures == (86,)


def test_a_jetpack_without_a_board_is_refused(machine) -> None:
    machine()
    with pytest.raises(TargetError, match="none is named") as error:
        resolve_request([87], jetpack="6.2")
    assert "--target" in error.value.hint


def test_jetpack_6_is_built_on_the_board(machine) -> None:
    machine("x86_64", "13.0.88")
    with pytest.raises(
        PluginError, match=r"JetPack 6.2 has CUDA 12.6.68, and nvcc here is 13"
    ) as e:
        resolve_request(target="jetson-orin-nx", jetpack="6.2")
    assert "not on PyPI" in e.value.message
    assert "build on the board" in e.value.hint
    assert "edgeattn plugin build --target jetson-orin-nx --jetpack 6.2" in e.value.hint
    machine("aarch64", "12.6.68")
    request = resolve_request(target="jetson-orin-nx", jetpack="6.2")
    assert request.architectures == (87,)
    assert not request.toolchain.is_cross


def test_thor_is_not_built_with_cuda_12(machine) -> None:
    machine("x86_64", "12.6.68")
    with pytest.raises(
        PluginError, match=r"JetPack 7.2.1 has CUDA 13.2.86, and nvcc here is 12.6.68"
    ):
        resolve_request(target="jetson-thor")


def test_it_tells_which_releases_the_result_is_for(machine) -> None:
    machine("x86_64", "13.0.88")
    notes = resolve_request(target="jetson-agx-orin").notes
    assert any("for JetPack 7.2, 7.2.1; JetPack 6.1, 6.2," in note for note in notes)
    machine("x86_64", "13.1.80")
    notes = resolve_request(target="jetson-thor").notes
    assert any("newer than the CUDA of JetPack 7.0, 7.1: machine code runs" in n for n in notes)
    machine("x86_64", "13.0.48")
    assert not any("JetPack" in note for note in resolve_request(target="jetson-thor").notes)


def test_an_nvcc_that_does_not_know_the_gpu_is_refused(machine) -> None:
    machine("x86_64", "12.6.68")
    with pytest.raises(PluginError, match="cannot compile for sm_120"):
        resolve_request([89, 120])


def test_a_plugin_that_is_left_out_is_told(machine, tmp_path: Path) -> None:
    machine()
    request = resolve_request([87])
    assert request.headers is None
    assert any("the TensorRT plugin is left out" in note for note in request.notes)
    headers = write_headers(tmp_path / "headers", PLAIN)
    request = resolve_request([87], tensorrt_include=headers)
    assert request.headers is not None
    assert request.notes == ()


def test_headers_of_another_tensorrt_than_the_boards_are_refused(machine, tmp_path: Path) -> None:
    machine()
    headers = write_headers(tmp_path / "headers", BY_NAME)
    with pytest.raises(PluginError, match=r"are of TensorRT 11.1.2, but JetPack 7.2 has 10.16"):
        resolve_request(target="jetson-thor", jetpack="7.2", tensorrt_include=headers)
    headers = write_headers(tmp_path / "headers", PLAIN)
    assert resolve_request(target="jetson-thor", jetpack="7.2", tensorrt_include=headers).headers
