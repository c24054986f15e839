"""Recognising boards by what they say of themselves, as recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeattn.deploy.board import Board, read_board
from edgeattn.deploy.machine import Machine
from edgeattn.engine.host import parse_l4t, parse_power_mode
from edgeattn.targets import MODULES
from tests.edgeattn.deploy.boards import BOARD_NAMES, BOARDS, Written, recorded

EXPECTED = {
    "agx-orin-6": ("jetson-agx-orin", "36.4.7", "6.2.1", "MAXN", 0),
    "orin-nano-6": ("jetson-orin-nano", "36.4.7", "6.2.1", "MAXN_SUPER", 2),
    "orin-nx-6-vendor": ("jetson-orin-nx", "36.4.3", "6.2", "15W", 0),
    "thor-7": ("jetson-thor", "38.2.2", "7.0", "MAXN", 0),
    "agx-orin-7": ("jetson-agx-orin", "39.2.0", "7.2", "MAXN", 0),
    "orin-nano-7": ("jetson-orin-nano", "39.2.1", "7.2.1", "MAXN_SUPER", 2),
}


def test_every_recorded_board_is_expected_here() -> None:
    assert sorted(EXPECTED) == BOARD_NAMES


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_board_is_recognised(name: str) -> None:
    board = read_board(recorded(name))
    assert board is not None
    assert board.target is not None
    assert board.release is not None
    found = (board.target.name, board.l4t, board.release.version)
    assert (*found, board.power_mode, board.power_mode_number) == EXPECTED[name]
    assert "\0" not in board.model
    values = json.loads(json.dumps(board.to_dict()))
    assert (values["target"], values["jetpack_release"]) == (found[0], found[2])


def test_packages_and_clocks_are_read() -> None:
    board = read_board(recorded("agx-orin-6"))
    assert board is not None
    assert (board.l4t_package, board.jetpack, board.gpu_clock) == ("36.4.7", "6.2.1", None)
    thor, locked = (read_board(recorded(name)) for name in ("thor-7", "agx-orin-7"))
    assert thor is not None
    assert locked is not None
    assert thor.gpu_clock is not None
    assert locked.gpu_clock is not None
    assert (thor.gpu_clock.min_hz, thor.gpu_clock.max_hz) == (315_000_000, 1_575_000_000)
    assert not thor.gpu_clock.is_locked
    assert locked.gpu_clock.is_locked


def test_a_machine_that_says_nothing_is_no_board(tmp_path: Path) -> None:
    assert read_board(Written(root=tmp_path)) is None
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert read_board(Written(root=tmp_path)) is None


def test_a_board_in_a_container_is_known_by_its_device_tree(tmp_path: Path) -> None:
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_text("NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
    board = read_board(Written(root=tmp_path))
    assert board is not None
    assert (board.l4t, board.release, board.major, board.power_mode) == ("", None, 0, "")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref", "32.7.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 36106755, BOARD: generic", "36.3.0"),
        ("", ""),
        ("not a release", ""),
    ],
)
def test_releases_are_parsed(text: str, release: str) -> None:
    assert parse_l4t(text) == release


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN 0 \n", ("MAXN", 0)),
        (
            "NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n",
            ("MODE_15W_6CORE", 2),
        ),
        ("NV Power Mode: 120W\n1", ("120W", 1)),
        ("NV Power Mode: MAXN\n", ("MAXN", None)),
        ("NV Power Mode: MODE_50W", ("MODE_50W", None)),  # as `jetson_clocks --show` ends
        ("NV Power Mode: 15W\n0", ("15W", 0)),
        ("NVPM ERROR: optMask is 1, no request for power mode\n", ("", None)),
        ("", ("", None)),
    ],
)
def test_power_modes_are_parsed(text: str, mode: tuple[str, int | None]) -> None:
    assert parse_power_mode(text) == mode


NVPMODEL = json.loads((BOARDS / "nvpmodel.json").read_text())


@pytest.mark.parametrize("case", NVPMODEL, ids=[case["name"] for case in NVPMODEL])
def test_recorded_modes_are_read_and_are_the_ones_that_the_module_has(case: dict[str, Any]) -> None:
    name, number = case["expected"]
    assert parse_power_mode(case["text"]) == (name, number)
    if case["module"] is None:
        return
    modes = MODULES[case["module"]].modes
    found = [m for m in modes if (m.number, m.name) == (number, name.removeprefix("MODE_"))]
    assert found
    for figure in ("gpu_mhz", "memory_mhz"):
        if figure in case:
            assert getattr(found[-1], figure) == pytest.approx(case[figure], rel=0.001)


def test_modes_of_four_boards_are_recorded_with_their_sources() -> None:
    assert len({case["module"] for case in NVPMODEL}) >= 4
    assert all(case["source"] and case["release"] for case in NVPMODEL)


def test_releases_of_four_boards_are_recorded_with_their_sources() -> None:
    boards = [read_board(recorded(name)) for name in BOARD_NAMES]
    assert len({board.target.name for board in boards if board and board.target}) >= 4
    readme = (BOARDS / "README.md").read_text()
    assert all(f"| {name} |" in readme for name in BOARD_NAMES)


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("36.4.0", "6.1"), ("36.4.4", "6.2.1"), ("36.5.0", "6.2.2"), ("36.5.1", "6.2.2"),
        ("36.5.2", "6.2.3"), ("38.2", "7.0"), ("38.2.1", "7.0"), ("38.4.0", "7.1"),
        ("39.2.0", "7.2"), ("39.2.1", "7.2.1"),
        ("36.3.0", None), ("35.4.1", None), ("40.1.0", None), ("", None),
    ],
)  # fmt: skip
def test_the_release_is_the_newest_of_its_branch_that_is_not_newer(
    l4t: str, jetpack: str | None
) -> None:
    release = Board("NVIDIA Jetson AGX Orin Developer Kit", l4t).release
    assert (release.version if release else None) == jetpack


def test_an_unknown_model_has_no_target() -> None:
    assert Board("NVIDIA Jetson Xavier NX Developer Kit", "35.4.1").target is None


@pytest.mark.jetson
def test_this_board_is_recognised() -> None:
    board = read_board(Machine())
    assert board is not None
    assert board.target is not None
    assert board.l4t.count(".") >= 1
    assert board.power_mode
    assert board.module is not None
    assert board.gpu_clock is not None
    # What the mode allows may be less than the module can do, never more.
    assert board.gpu_clock.max_hz <= board.module.fastest.clock_ghz * 1.01e9
