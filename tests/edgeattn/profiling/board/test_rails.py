"""Which rail is the whole."""

from __future__ import annotations

import pytest

from edgeattn.profiling.board.rails import total_mw, total_rail
from edgeattn.profiling.board.sample import BoardSample


@pytest.mark.parametrize(
    ("rails", "total"),
    [
        (["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"], "VDD_IN"),
        (["VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0", "VIN"], "VIN"),
        (["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"], "POM_5V_IN"),
        (["GPU_BOARD"], "GPU_BOARD"),
        (["VIN_SYS_5V0"], ""),
        (["VDD_GPU_SOC", "VIN_SYS_5V0"], ""),
        (["VDD_CPU_GPU_CV", "VDD_SOC"], ""),
        ([], ""),
    ],
)
def test_the_whole_is_an_input_or_a_sum_and_never_the_5_v_rail(
    rails: list[str], total: str
) -> None:
    assert total_rail(rails) == total


def test_a_part_of_another_rail_is_not_counted_twice() -> None:
    rails = {"VIN_SYS_5V0": 4032.0, "VDD_GPU_SOC": 2399.0, "VDD_CPU_CV": 400.0}
    sample = BoardSample(0, power_mw=rails | {"VDDQ_VDD2_1V8AO": 301.0})
    assert total_mw(sample, total_rail(sample.power_mw)) == 2399 + 400 + 4032


def test_a_missing_part_and_a_reading_of_nothing_give_no_total() -> None:
    assert total_mw(BoardSample(0, power_mw={"A": 1.0}), "A+B") is None
    assert total_mw(BoardSample(0, power_mw={"VIN": 0.0}), "VIN") is None
    assert total_mw(BoardSample(0, power_mw={"A": 5.0, "B": -2.0}), "A+B") == 3
