"""For which TensorRT and board: what follows from a target, what is refused."""

from __future__ import annotations

import sys

import pytest

from edgeattn.engine.tensorrt import destination
from edgeattn.engine.tensorrt.destination import build_for, plan_for
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError, MissingDependencyError, SpecError, TargetError


@pytest.fixture
def nowhere(monkeypatch):
    """A laptop: neither TensorRT nor a GPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(destination, "local_architectures", tuple)


@pytest.fixture
def orin(monkeypatch):
    """A board with JetPack 6."""
    monkeypatch.setattr(destination, "installed_version", lambda: TensorRtVersion(10, 3))
    monkeypatch.setattr(destination, "local_architectures", lambda: (87,))


def test_a_board_means_its_newest_jetpack_and_the_others_are_named(nowhere):
    where = plan_for("jetson-orin-nano")
    assert (str(where.version), where.architectures) == ("10.16.2.10", (87,))
    assert where.jetpack is not None
    assert where.jetpack.version == "7.2.1"
    assert "JetPack 7.2.1, the newest known" in where.version_reason
    assert "6.1, 6.2, 6.2.1, 6.2.2, 6.2.3 have 10.3.0.30" in where.version_reason


def test_a_jetpack_that_is_named_decides(nowhere):
    where = plan_for("jetson-orin-nano", "6.2")
    assert (str(where.version), where.version_reason) == ("10.3.0.30", "JetPack 6.2 has it")
    assert where.title == "Jetson Orin Nano"


def test_a_version_alone_is_enough(nowhere):
    where = plan_for(tensorrt="11.1")
    assert (str(where.version), where.version_reason) == ("11.1", "as asked")
    assert (where.target, where.architectures, where.title) == (None, (), "this machine")


@pytest.mark.parametrize("version", ["10.3", "10.3.0", "10.3.0.30"])
def test_a_version_that_is_the_jetpacks_goes_with_it(nowhere, version):
    where = plan_for("jetson-orin-nano", "6.1", version)
    assert where.jetpack is not None
    assert where.version.minor == 3


def test_a_version_wins_over_a_jetpack_that_was_only_assumed(nowhere):
    where = plan_for("jetson-orin-nano", tensorrt="10.7")
    assert (str(where.version), where.jetpack) == ("10.7", None)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, BuildError, "which TensorRT to plan for"),
        ({"target": "desktop"}, BuildError, "which TensorRT to plan for"),
        ({"jetpack": "6.2"}, BuildError, "is for a board, and none is named"),
        ({"target": "jetson-orin-nan"}, TargetError, "no target 'jetson-orin-nan'"),
        ({"target": "jetson-thor", "jetpack": "6.2"}, TargetError, "no JetPack 6.2 is known"),
        (
            {"target": "jetson-orin-nx", "jetpack": "6.2", "tensorrt": "10.7"},
            BuildError,
            "JetPack 6.2 has TensorRT 10.3.0.30, not 10.7",
        ),
        ({"tensorrt": "ten"}, SpecError, "no version of TensorRT"),
        ({"tensorrt": "8.6"}, BuildError, "TensorRT 8.6 is not supported"),
    ],
)
def test_what_decides_nothing_or_contradicts_itself_is_refused(nowhere, arguments, error, said):
    with pytest.raises(error, match=said) as caught:
        plan_for(**arguments)
    assert caught.value.hint or error is TargetError


def test_an_installed_tensorrt_is_planned_for_when_nothing_else_is_said(orin):
    where = plan_for()
    assert (str(where.version), where.architectures) == ("10.3", (87,))
    assert where.version_reason == "the one installed here"


def test_a_build_is_for_this_machine(orin):
    for arguments in ({}, {"target": "jetson-orin-nano", "jetpack": "6.2"}, {"tensorrt": "10.3"}):
        where = build_for(**arguments)
        assert (str(where.version), where.architectures) == ("10.3", (87,))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": "jetson-thor"}, r"this machine is no Jetson Thor: its GPU is sm_87; expected"),
        (
            {"target": "jetson-orin-nano", "jetpack": "7.2"},
            "TensorRT 10.3 is installed here, and JetPack 7.2 has 10.16.2.10",
        ),
        ({"tensorrt": "10.7"}, "TensorRT 10.3 is installed here, and 10.7 was asked for"),
    ],
)
def test_a_build_for_another_machine_is_refused(orin, arguments, said):
    with pytest.raises(BuildError, match=said) as caught:
        build_for(**arguments)
    assert "--dry-run" in caught.value.hint


def test_a_build_without_tensorrt_is_refused(nowhere):
    with pytest.raises(MissingDependencyError):
        build_for()


def test_a_build_without_a_gpu_is_no_build_for_a_board(monkeypatch):
    monkeypatch.setattr(destination, "installed_version", lambda: TensorRtVersion(10, 3))
    monkeypatch.setattr(destination, "local_architectures", tuple)
    with pytest.raises(BuildError, match="its GPU is none"):
        build_for("jetson-orin-nano")
