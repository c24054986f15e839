"""Lines that boards printed, against what a person reads in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeattn.profiling.board.rails import total_mw, total_rail
from edgeattn.profiling.board.tegrastats import parse_line

LINES = Path(__file__).parents[3] / "fixtures/boards/tegrastats/lines.json"
CASES = json.loads(LINES.read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_recorded_line_is_read_as_a_person_reads_it(case: dict[str, Any]) -> None:
    sample, expected = parse_line(case["line"], 7), case["expected"]
    assert sample is not None
    assert sample.time_ns == 7
    assert sample.memory_used_bytes == expected["ram_mib"] * 1024 * 1024
    assert sample.power_mw == expected["power_mw"]
    assert sample.temperatures_c == expected["temperatures_c"]
    assert sample.clocks_mhz.get("gpu") == expected["gpu_mhz"]
    assert sample.clocks_mhz.get("emc") == expected["emc_mhz"]
    assert sample.clocks_mhz.get("cpu0") == expected["cpu0_mhz"]
    assert sample.utilisation_percent.get("gpu") == expected["gpu_percent"]
    assert sample.utilisation_percent.get("emc") == expected["emc_percent"]
    assert sum(name.startswith("cpu") for name in sample.clocks_mhz) == expected["cpus"]
    assert sum(name.startswith("cpu") for name in sample.utilisation_percent) == expected["cpus"]
    rail = total_rail(sample.power_mw)
    assert rail == expected["total"]
    assert total_mw(sample, rail) == expected["total_mw"]


def test_there_are_lines_of_every_board_and_generation() -> None:
    seen = {(case["board"].split(" ")[0], case["release"][8]) for case in CASES}
    assert {("AGX", "5"), ("AGX", "6"), ("AGX", "7"), ("Orin", "5"), ("Orin", "6")} <= seen
    assert ("Thor", "7") in seen
    assert {case["board"][:9] for case in CASES} >= {"Orin Nano", "Orin NX 1", "AGX Orin "}
    assert all(case["source"] for case in CASES)


@pytest.mark.parametrize(
    ("text", "gpu_mhz", "load"),
    [
        ("GR3D_FREQ 10%@1300", 1300, 10),
        ("GR3D_FREQ 12%@[1300,1296]", 1300, 12),
        ("GR3D_FREQ 56%@[0,1020]", 1020, 56),
        ("GR3D_FREQ 99%", None, 99),
        ("GR3D_FREQ @[1574,1574,1574]", 1574, None),
        ("GR3D_FREQ off", None, None),
        ("", None, None),
    ],
)
def test_the_gpu_is_read_in_every_form(text: str, gpu_mhz: int | None, load: int | None) -> None:
    sample = parse_line(f"RAM 1/2MB (lfb 1x4MB) {text} APE 150", 0)
    assert sample is not None
    assert sample.clocks_mhz.get("gpu") == gpu_mhz
    assert sample.utilisation_percent.get("gpu") == load


def test_processors_that_are_off_keep_their_number_free() -> None:
    sample = parse_line("RAM 1/2MB CPU [24%@2201,off,9%@729,off]", 0)
    assert sample is not None
    assert sample.clocks_mhz == {"cpu0": 2201, "cpu2": 729}
    assert sample.utilisation_percent == {"cpu0": 24, "cpu2": 9}


def test_a_rail_without_an_average_counts() -> None:
    sample = parse_line("RAM 4300/30698MB GR3D_FREQ 45% tj@52.468C VDD_GPU_SOC 2171mW", 0)
    assert sample is not None
    assert sample.power_mw == {"VDD_GPU_SOC": 2171}


@pytest.mark.parametrize("text", ["", "\n", "tegrastats: command not found", "VDD_IN 1mW/1mW"])
def test_what_is_no_line_of_tegrastats_gives_nothing(text: str) -> None:
    assert parse_line(text, 0) is None
