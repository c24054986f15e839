"""What two sides do not have in common is named, each by its name, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeattn.profiling.comparison.differences import differences, troubles
from edgeattn.profiling.comparison.ratio import Times
from edgeattn.profiling.modes import MODES
from tests.edgeattn.profiling.comparison.made import ENVIRONMENT, board, side

TRTEXEC_11 = MODES["trtexec-11"].sentence
ORT = replace(ENVIRONMENT, tools=ENVIRONMENT.tools | {"onnxruntime": "1.2.3"})


def test_sides_that_were_measured_alike_have_no_differences() -> None:
    assert list(differences(side("A", board=board()), side("B", board=board()))) == []


@pytest.mark.parametrize(
    ("of_a", "of_b", "sentence"),
    [
        ({}, {"mode": TRTEXEC_11}, "the latencies hold different things: A is device: "),
        ({}, {"inputs": {"x": (2, 3, 8, 8)}},
         "the shapes of the input input differ: A 1×3×8×8, B 2×3×8×8"),
        ({}, {"inputs": {}}, "the numbers of inputs differ: A 1, B 0"),
        ({}, {"environment": replace(ENVIRONMENT, machine="Orin NX")},
         "the machines differ: A Made-up board, ARMv8, B Orin NX, ARMv8"),
        ({}, {"environment": replace(ENVIRONMENT, governor="schedutil")},
         "the frequency governors differ: A performance, B schedutil"),
        ({}, {"environment": ORT}, "the versions of onnxruntime differ: A "),
        ({"board": board("15W")}, {"board": board("MAXN")},
         "the power modes differ: A 15W, B MAXN"),
        ({"board": board(clocks=True)}, {"board": board(clocks=False)},
         "the clocks of the GPU differ: A locked, B free to move"),
        ({"board": board()}, {"board": board(name="")}, "the boards differ: A Orin, B none"),
        ({}, {"settings": {"engine": "tensorrt 11.0.0", "cuda_graph": False}},
         "the setting cuda graph differs: A yes, B no"),
        ({}, {"settings": {"cuda_graph": True, "streams": 4}},
         "the queries in flight differ: A 1, B 4"),
        ({}, {"is_report": True},
         "A and B were measured in different runs: what changed in between is in their ratio"),
    ],
)  # fmt: skip
def test_each_difference_is_one_sentence(
    of_a: dict[str, Any], of_b: dict[str, Any], sentence: str
) -> None:
    (found,) = differences(side("A", **of_a), side("B", **of_b))
    assert found.startswith(sentence)


def test_an_engine_against_itself_is_called_so() -> None:
    a = side("A")
    (found,) = differences(a, replace(a, letter="C"))
    assert found == (
        "A and C are the same engine by their hash: what they differ in is not its doing"
    )


def test_a_run_of_few_turns_is_told() -> None:
    shared = side("A").times
    assert shared is not None
    later = Times(shared.latency_ms, tuple(start + 10**12 for start in shared.starts_ns))
    (found,) = differences(side("A"), side("B", times=later))
    assert found.startswith("A and B had 1 turn each, and their interval does not know how turns")


def test_sides_without_a_latency_have_nothing_to_differ_in() -> None:
    assert list(differences(side("A", latency=None), side("B", mode=TRTEXEC_11))) == []


def test_a_trouble_that_sides_share_is_told_once() -> None:
    sides = [
        side("A", warnings=("the machine was busy", "it varies")),
        side("B", warnings=("the machine was busy",)),
        side("C"),
    ]
    assert list(troubles(sides)) == ["A, B: the machine was busy", "A: it varies"]
