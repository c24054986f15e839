"""The boards as data: complete, consistent, and with a source for every figure."""

from __future__ import annotations

import json

import pytest

from edgeattn.cli.main import run
from edgeattn.errors import TargetError
from edgeattn.targets import (
    H200,
    SMS,
    TARGETS,
    check_architectures,
    find_gpu,
    get_target,
    runs_on,
)

NAMES = ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "desktop"]


def test_the_targets_are_these_in_this_order() -> None:
    assert list(TARGETS) == NAMES
    assert all(target.name == name for name, target in TARGETS.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_consistent(name: str) -> None:
    target = get_target(name)
    assert set(target.architectures) <= SMS.keys()
    if target.gpu:
        assert target.architectures == (target.gpu.architecture,)
        assert target.gpu.source
    is_jetson = name.startswith("jetson")
    assert target.machine == ("aarch64" if is_jetson else "x86_64")
    assert bool(target.jetpacks) == is_jetson


def test_orin_runs_jetpack_6_and_7_and_thor_7_alone() -> None:
    orin = {j.version: j.tensorrt for j in TARGETS["jetson-agx-orin"].jetpacks}
    thor = {j.version: j.tensorrt for j in TARGETS["jetson-thor"].jetpacks}
    assert orin["6.2"].startswith("10.3.")
    assert orin["7.2"] == thor["7.2"] == "10.16.2.10"
    assert {j.cuda_major for j in TARGETS["jetson-thor"].jetpacks} == {13}
    assert {version[0] for version in thor} == {"7"}


def test_a_jetpack_that_does_not_run_on_the_board_is_refused() -> None:
    assert TARGETS["jetson-thor"].jetpack("7.1").cuda == "13.0.48"
    with pytest.raises(TargetError, match=r"no JetPack 6.2 is known for jetson-thor; expected 7.0"):
        TARGETS["jetson-thor"].jetpack("6.2")
    with pytest.raises(TargetError, match="expected none: it runs no JetPack"):
        TARGETS["desktop"].jetpack("7.2")


def test_a_misspelt_target_names_the_near_ones() -> None:
    with pytest.raises(TargetError, match="there is no target 'jetson-orin'") as error:
        get_target("jetson-orin")
    assert "jetson-orin-nx" in error.value.hint
    with pytest.raises(TargetError, match="no target 'xyz'") as error:
        get_target("xyz")
    assert error.value.hint == ""


def test_architectures_are_sorted_and_unknown_ones_refused() -> None:
    assert check_architectures([110, 87, 87]) == (87, 110)
    with pytest.raises(TargetError, match="no GPU architecture 72, 75; expected some of 80, 86"):
        check_architectures([75, 87, 72])


@pytest.mark.parametrize(
    ("architectures", "device", "runs"),
    [
        ((87,), 87, True),
        ((80,), 87, True),  # machine code of an earlier minor number
        ((87,), 86, False),
        ((87,), 89, True),
        ((87,), 110, True),  # PTX of the newest, compiled by the driver
        ((110,), 87, False),
        ((80, 110), 89, True),
        ((80, 110), 120, True),
        ((90, 120), 100, False),
        ((), 87, False),
    ],
)
def test_what_a_library_runs_on(architectures: tuple[int, ...], device: int, runs: bool) -> None:
    assert runs_on(architectures, device) is runs


@pytest.mark.parametrize(
    ("name", "architecture", "model", "found"),
    [
        ("Orin", 87, "NVIDIA Jetson AGX Orin Developer Kit", "Jetson AGX Orin 64 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "Nano"),
        ("Orin", 87, "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "Orin NX"),
        ("NVIDIA Thor", 110, "NVIDIA Jetson AGX Thor Developer Kit", "Jetson Thor T5000"),
        ("NVIDIA H200", 90, "", "H200"),
        ("NVIDIA H200 NVL", 90, "", None),  # a smaller one
        ("NVIDIA H100", 90, "", None),
        ("Orin", 87, "", None),  # which of them is not known
        ("NVIDIA RTX A2000", 86, "NVIDIA Jetson AGX Orin", None),  # a card in a board
        ("", 87, "a board of somebody's", None),
    ],
)
def test_the_figures_of_a_gpu_are_those_of_its_board(
    name: str, architecture: int, model: str, found: str | None
) -> None:
    gpu = find_gpu(name, architecture, model)
    assert (gpu is None) is (found is None)
    if gpu is not None and found is not None:
        assert found in gpu.name
        assert gpu.architecture == architecture


def test_what_ctas_share_is_as_in_cudas_own_table() -> None:
    kib = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 110: 228, 120: 100}
    assert {number: sm.shared_bytes // 1024 for number, sm in SMS.items()} == kib
    assert H200.architecture in SMS


def test_the_verb_lists_boards_and_their_software(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
    assert "sm_87" in printed
    assert "10.16.2.10" in printed
    assert run(["targets", "--json"]) == 0
    targets = {t["name"]: t for t in json.loads(capsys.readouterr().out)["targets"]}
    assert targets["jetson-thor"]["architectures"] == [110]
    assert targets["jetson-orin-nx"]["gpu"]["memory_gb_s"] is None
    assert targets["jetson-agx-orin"]["jetpacks"][0]["tensorrt"] == "10.3.0.30"
