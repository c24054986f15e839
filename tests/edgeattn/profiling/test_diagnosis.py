"""Warnings: each at its threshold and not before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeattn.profiling.diagnosis import diagnose, diagnose_machine, diagnose_mode
from edgeattn.profiling.environment import collect_environment
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import MODES
from edgeattn.profiling.stats import LatencyStats


def stats(*samples_ms: float) -> LatencyStats:
    return LatencyStats.from_samples(samples_ms)


def warnings(
    *,
    latency: LatencyStats | None = None,
    settings: dict[str, Any] | None = None,
    streams: int = 1,
    settled: bool | None = None,
    **parts: float,
) -> list[str]:
    """Diagnose a run; parts are medians of those of a device."""
    measurement = Measurement((), 0, streams=streams, settled=settled)
    found = {"latency": latency or stats(9.0)} | {k: stats(v) for k, v in parts.items()}
    return list(diagnose(measurement, found, settings or {}))


def test_a_calm_run_is_not_warned_of() -> None:
    assert warnings(settled=True) == []
    assert warnings(h2d=0.9, compute=1.0, d2h=0.9, enqueue=0.8) == []


@pytest.mark.parametrize(("last", "warned"), [(1.05, False), (1.06, True)])  # 2.4 and 2.8 %
def test_a_coefficient_of_variation_above_2_5_percent(last: float, warned: bool) -> None:
    found = warnings(latency=stats(1.0, 1.0, last))
    assert bool(found) == warned
    assert all("coefficient of variation is 2.8 %" in text for text in found)


def test_enqueueing_that_takes_more_than_four_fifths_of_the_computation() -> None:
    parts = {"h2d": 0.0, "compute": 1.0, "d2h": 0.0, "enqueue": 0.81}
    (without,) = warnings(**parts)
    assert without.startswith("enqueueing bounds the throughput: it takes 0.810 ms")
    assert "a CUDA graph makes that shorter" in without
    (with_graph,) = warnings(settings={"cuda_graph": True}, **parts)
    assert "CUDA graph" not in with_graph


@pytest.mark.parametrize(
    ("copy", "said"), [("h2d", "inputs to the device"), ("d2h", "outputs from the device")]
)
def test_a_copy_that_takes_as_long_as_the_computation(copy: str, said: str) -> None:
    parts = {"h2d": 0.1, "compute": 1.0, "d2h": 0.1, "enqueue": 0.1} | {copy: 1.0}
    (warning,) = warnings(**parts)
    assert warning.startswith(f"copies dominate: {said} take 1.000 ms")


def test_a_host_has_no_enqueueing_that_could_bound() -> None:
    assert warnings(latency=stats(5.0)) == []


def test_a_spread_that_did_not_settle() -> None:
    (warning,) = warnings(settled=False)
    assert "did not settle" in warning


def test_several_streams_and_too_few_contexts() -> None:
    (crowd,) = warnings(streams=2)
    assert crowd.startswith("2 queries ran at the same time")
    assert len(warnings(streams=2, settings={"contexts": 2})) == 1
    _, shared = warnings(streams=3, settings={"contexts": 1})
    assert "3 queries shared 1 execution context and waited" in shared


def test_a_graph_that_could_not_be_recorded() -> None:
    settings = {"cuda_graph": False, "cuda_graph_fallback": "sizes depend on the data"}
    (warning,) = diagnose_mode(MODES["trtexec-11"], settings)
    assert warning.endswith("this engine ran without: sizes depend on the data")
    assert list(diagnose_mode(MODES["trtexec-11"], {"cuda_graph": True})) == []
    assert list(diagnose_mode(MODES["trtexec-11"], {"engine": "cpu"})) == []
    assert list(diagnose_mode(MODES["trtexec-10"], {"cuda_graph": False})) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_average": 0.9, "governor": None}, None),
        ({"load_average": None, "governor": "performance"}, None),
        ({"load_average": 1.1}, "a load of 1.1 on 2 processors"),
        ({"governor": "schedutil"}, "the frequency governor is schedutil"),
    ],
)
def test_a_machine_that_disturbs(changes: dict[str, Any], said: str | None) -> None:
    calm = {"load_average": 0.0, "logical_cores": 2, "governor": "performance"}
    found = list(diagnose_machine(replace(collect_environment(), **(calm | changes))))
    assert [said in text for text in found if said] == ([True] if said else [])
    assert bool(found) == (said is not None)
