"""The boards as data: complete, and told apart as boards and drivers name them.

Their figures are tried in test_target_figures.py.
"""

from __future__ import annotations

import json

import pytest

from edgeattn.cli.main import run
from edgeattn.errors import TargetError
from edgeattn.targets import (
    CARDS,
    MODULES,
    SMS,
    TARGETS,
    Gpu,
    check_architectures,
    find_gpu,
    get_target,
    has_machine_code,
    module_of_board,
    runs_on,
    target_of_model,
)

NAMES = ["jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor", "desktop"]
MIB = 1 << 20


def test_the_targets_are_these_in_this_order() -> None:
    assert list(TARGETS) == NAMES
    assert all(target.name == name for name, target in TARGETS.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_consistent(name: str) -> None:
    target = get_target(name)
    assert set(target.architectures) <= SMS.keys()
    is_jetson = name.startswith("jetson")
    assert target.machine == ("aarch64" if is_jetson else "x86_64")
    assert bool(target.jetpacks) == bool(target.modules) == is_jetson == (target.gpu is not None)
    assert all((m.gpu.architecture,) == target.architectures for m in target.modules)
    sizes = [module.memory_bytes for module in target.modules]
    assert sizes == sorted(set(sizes))
    if target.gpu:  # none of its modules is faster
        gpus = [module.fastest for module in target.modules]
        assert target.gpu.memory_gb_s == max(gpu.memory_gb_s or 0 for gpu in gpus)
        assert target.gpu.fp16_tflops == max(gpu.fp16_tflops or 0 for gpu in gpus)


def test_every_module_is_of_one_board_and_every_card_of_the_desktop() -> None:
    assert sorted(m.name for t in TARGETS.values() for m in t.modules) == sorted(MODULES)
    assert {gpu.architecture for gpu in CARDS} == set(TARGETS["desktop"].architectures)
    keys = [(gpu.name, gpu.memory_bytes) for gpu in CARDS]
    assert len(keys) == len(set(keys))


def test_orin_runs_jetpack_6_and_7_and_thor_7_alone() -> None:
    orin = {j.version: j.tensorrt for j in TARGETS["jetson-agx-orin"].jetpacks}
    thor = {j.version: j.tensorrt for j in TARGETS["jetson-thor"].jetpacks}
    assert {version: orin[version] for version in orin if version[0] == "6"} == dict.fromkeys(
        ("6.1", "6.2", "6.2.1", "6.2.2", "6.2.3"), "10.3.0.30"
    )
    assert orin["7.2"] == thor["7.2"] == orin["7.2.1"] == thor["7.2.1"] == "10.16.2.10"
    assert {j.cuda_major for j in TARGETS["jetson-thor"].jetpacks} == {13}
    assert {version[0] for version in thor} == {"7"}


def test_releases_are_in_order_and_have_a_source() -> None:
    for target in TARGETS.values():
        numbers = [tuple(map(int, j.l4t.split("."))) for j in target.jetpacks]
        assert numbers == sorted(numbers)
        assert all(j.source for j in target.jetpacks)
        assert all(j.python == ("3.10" if j.version[0] == "6" else "3.12") for j in target.jetpacks)


def test_a_jetpack_that_does_not_run_on_the_board_is_refused() -> None:
    assert TARGETS["jetson-thor"].jetpack("7.1").cuda == "13.0.48"
    with pytest.raises(TargetError, match=r"no JetPack 6.2 is known for jetson-thor; expected 7.0"):
        TARGETS["jetson-thor"].jetpack("6.2")
    with pytest.raises(TargetError, match="expected none: it runs no JetPack"):
        TARGETS["desktop"].jetpack("7.2")


def test_of_a_jetpack_that_is_only_named_somewhere_it_is_said_what_is_known() -> None:
    with pytest.raises(TargetError, match=r"no JetPack 7\.2\.2 is known") as error:
        TARGETS["jetson-agx-orin"].jetpack("7.2.2")
    assert "TensorRT 11.4.1" in error.value.hint


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
    ("architectures", "device", "runs", "compiled"),
    [
        ((87,), 87, True, True),
        ((80,), 87, True, True),  # machine code of an earlier minor number
        ((87,), 86, False, False),
        ((87,), 89, True, True),
        ((87,), 110, True, False),  # PTX of the newest, compiled by the driver
        ((110,), 87, False, False),
        ((80, 110), 89, True, True),
        ((80, 110), 120, True, False),
        ((90, 120), 100, False, False),
        ((), 87, False, False),
    ],
)
def test_what_a_library_runs_on(
    architectures: tuple[int, ...], device: int, runs: bool, compiled: bool
) -> None:
    assert runs_on(architectures, device) is runs
    assert has_machine_code(architectures, device) is compiled


# Memory as boards told it: /proc/meminfo and tegrastats lines of tests/fixtures/boards.
@pytest.mark.parametrize(
    ("model", "memory_mib", "module"),
    [
        (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            7620,
            "orin-nano-8gb",
        ),
        ("NVIDIA Jetson Orin Nano Developer Kit", 3433, "orin-nano-4gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit", None, "orin-nano-8gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15656, "orin-nx-16gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 7620, "orin-nx-8gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30622, "agx-orin-32gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 62795, "agx-orin-64gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 125772, "thor-t5000"),
        ("NVIDIA Jetson AGX Thor", 62000, "thor-t4000"),
        ("NVIDIA Jetson AGX Thor", 1 << 20, "thor-t5000"),  # more than any has
        ("NVIDIA Jetson Xavier NX Developer Kit", 7000, None),
        ("", None, None),
    ],
)
def test_model_and_memory_tell_the_module(
    model: str, memory_mib: int | None, module: str | None
) -> None:
    found = module_of_board(model, memory_mib and memory_mib * MIB)
    assert (found.name if found else None) == module
    assert (target_of_model(model) is None) is (module is None)


@pytest.mark.parametrize(
    ("name", "architecture", "model", "memory_mib", "found"),
    [
        ("Orin", 87, "NVIDIA Jetson AGX Orin Developer Kit", None, "Jetson AGX Orin 64 GB"),
        ("Orin", 87, "NVIDIA Jetson AGX Orin Developer Kit", 30622, "Jetson AGX Orin 32 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin Nano Developer Kit Super", 7620, "Orin Nano Super 8 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin Nano Developer Kit Super", 3433, "Orin Nano Super 4 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin Nano Developer Kit", 7620, "Jetson Orin Nano 8 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin NX Developer Kit", 15656, "Jetson Orin NX 16 GB"),
        ("Orin", 87, "NVIDIA Jetson Orin NX Developer Kit Super", 15656, "Orin NX Super 16 GB"),
        ("NVIDIA Thor", 110, "NVIDIA Jetson AGX Thor Developer Kit", 125772, "Jetson Thor T5000"),
        ("NVIDIA H200", 90, "", None, "H200"),
        ("NVIDIA H200 NVL", 90, "", None, None),  # a smaller one
        ("NVIDIA H100 80GB HBM3", 90, "", None, "H100 80GB HBM3"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 90, "", None, None),
        ("NVIDIA GeForce RTX 4090", 89, "", 24564, "GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 89, "", 16376, None),
        ("NVIDIA GeForce RTX 4090", 86, "", 24564, None),  # not what the name says
        ("NVIDIA GeForce RTX 2080 Ti", 75, "", 11264, None),
        ("Orin", 87, "", None, None),  # which of them is not known
        ("NVIDIA RTX A6000", 86, "NVIDIA Jetson AGX Orin", None, "RTX A6000"),  # a card in a board
        ("", 87, "a board of somebody's", None, None),
    ],
)
def test_the_figures_of_a_gpu_are_those_of_its_board_or_card(
    name: str, architecture: int, model: str, memory_mib: int | None, found: str | None
) -> None:
    gpu = find_gpu(name, architecture, model, memory_mib and memory_mib * MIB)
    assert (gpu is None) is (found is None)
    if gpu is not None and found is not None:
        assert gpu.name.endswith(found)
        assert gpu.architecture == architecture


@pytest.mark.parametrize(
    ("name", "memory_mib", "gb_s"),
    [
        ("NVIDIA GeForce RTX 3060", 12288, 360.0),
        ("NVIDIA GeForce RTX 3060", 8192, 240.0),
        ("NVIDIA GeForce RTX 3060", None, 360.0),
        ("NVIDIA GeForce RTX 3080", 10240, 760.3),
        ("NVIDIA GeForce RTX 3080", 12288, 912.4),
    ],
)
def test_cards_of_one_name_are_told_apart_by_their_memory(
    name: str, memory_mib: int | None, gb_s: float
) -> None:
    gpu = find_gpu(name, 86, memory_bytes=memory_mib and memory_mib * MIB)
    assert gpu is not None
    assert gpu.memory_gb_s == gb_s


def test_figures_that_change_bring_their_sources() -> None:
    gpu = Gpu("a card", 86, 2, 1.0, 10.0, None, None, sources={"sm_count": "a", "clock_ghz": "a"})
    other = gpu.with_figures({"clock_ghz": "b"}, clock_ghz=2.0)
    assert (gpu.source, other.source, other.clock_ghz) == ("a", "a; b", 2.0)
    assert other.sources == {"sm_count": "a", "clock_ghz": "b"}


def test_the_verb_lists_boards_modules_and_releases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*NAMES, *MODULES))
    assert all(module.fastest.name in printed for module in MODULES.values())
    assert "sm_87" in printed
    assert "10.16.2.10" in printed
    assert f"{len(CARDS)} desktop and server GPUs" in printed
    assert run(["targets", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    targets = {t["name"]: t for t in values["targets"]}
    assert targets["jetson-thor"]["architectures"] == [110]
    assert targets["jetson-orin-nx"]["gpu"]["memory_gb_s"] == 102.0
    assert targets["jetson-agx-orin"]["jetpacks"][0]["tensorrt"] == "10.3.0.30"
    assert targets["desktop"]["gpu"] is None
    module = targets["jetson-orin-nano"]["modules"][1]
    assert module["super_gpu"]["sources"]["memory_gb_s"].startswith("NVIDIA Jetson Orin Nano")
    assert {gpu["name"] for gpu in values["gpus"]} == {gpu.name for gpu in CARDS}
    assert {sm["number"] for sm in values["architectures"]} == SMS.keys()


def test_a_name_shows_a_board_with_modes_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["targets", "jetson-orin-nano"]) == 0
    printed = capsys.readouterr().out
    for word in ("MAXN_SUPER", "orin-nano-4gb", "DS-11105-001", "meta-tegra", "TF32, BF16"):
        assert word in printed
    assert "orin-nx" not in printed
    assert run(["targets", "jetson-orin-nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["modules"][0]["dla_cores"] == 0


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("orin-nx-16gb", "module", ["DS-10712-001", "40W", "accelerators  2"]),
        ("RTX 3060", "gpus", ["240", "360", "TechPowerUp"]),
        ("NVIDIA GeForce RTX 3060", "gpus", ["240", "360"]),
        ("a100-sxm4-80gb", "gpus", ["2039"]),
        ("desktop", "target", ["sm_120", "GeForce RTX 5090", "H100 80GB HBM3"]),
    ],
)
def test_a_name_may_be_a_module_a_card_or_the_desktop(
    name: str, key: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["targets", name]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in words)
    assert run(["targets", name, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [key]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("jetson-orin", "did you mean"),
        ("RTX 4091", "GeForce RTX 4090"),
        ("zzz", "lists what is known"),
    ],
)
def test_a_name_that_nothing_has_is_refused_with_near_ones(
    name: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["targets", name]) == 1
    said = capsys.readouterr().err
    assert f"nothing is known of '{name}'" in said
    assert hint in said
