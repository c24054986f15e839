"""The modes: which engine each measures, how, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest
from edgeattn.cli.profile import MODES as OFFERED
from edgeattn.engine.base import QueryTimes
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.errors import EngineError, SpecError
from edgeattn.profiling.measure import measure
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import DEVICE, HOST, MODES, choose_mode
from tests.graphs import classifier, logits_of, save

COPIES = Measurement((QueryTimes(0, 1, 0, 2, 3, 9, 9, 12),), 12, (13,))


class Described:
    """An engine that says how it was loaded and does nothing else."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.manifest = Manifest("engine", target="tensorrt")


def test_the_plain_mode_is_that_of_the_engine() -> None:
    assert choose_mode(None, "cpu") is choose_mode(None, "") is choose_mode("host", "cpu") is HOST
    assert choose_mode(None, "tensorrt") is choose_mode("device", "tensorrt") is DEVICE


@pytest.mark.parametrize("name", ["trtexec-10", "trtexec-11", "application"])
def test_other_modes_are_for_every_engine(name: str) -> None:
    assert choose_mode(name, "cpu") is choose_mode(name, "tensorrt") is MODES[name]
    assert MODES[name].sentence.startswith(f"{name}: what ")


@pytest.mark.parametrize(("name", "target"), [("device", "cpu"), ("host", "tensorrt")])
def test_a_plain_mode_of_the_other_kind_is_refused(name: str, target: str) -> None:
    with pytest.raises(SpecError, match=f"{name} is not for engines that run on {target}"):
        choose_mode(name, target)


def test_an_unknown_mode_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(SpecError, match=r"no mode trtexec; expected one of .*trtexec-11"):
        choose_mode("trtexec", "cpu")


def test_the_command_line_offers_them_all() -> None:
    assert tuple(MODES) == OFFERED


def test_trtexec_10_loads_without_graph_and_with_copies() -> None:
    options = MODES["trtexec-10"].load_options(TensorRtRunOptions(contexts=3))
    assert options == TensorRtRunOptions(contexts=3, cuda_graph=False, zero_copy=False)
    assert MODES["trtexec-11"].load_options(None) == TensorRtRunOptions(zero_copy=False)


@pytest.mark.parametrize("name", ["device", "application"])
def test_other_modes_load_an_engine_as_asked(name: str) -> None:
    given = TensorRtRunOptions(cuda_graph=False)
    assert MODES[name].load_options(given) is given
    assert MODES[name].load_options(None) is None


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("trtexec-10", {"cuda_graph": True, "zero_copy": False}, "cuda_graph=True"),
        ("trtexec-11", {"cuda_graph": False, "zero_copy": False}, "cuda_graph=False"),
        ("trtexec-11", {"cuda_graph": True, "zero_copy": True}, "zero_copy=True"),
    ],
)
def test_an_engine_loaded_for_something_else_is_refused(
    name: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(EngineError, match=f"loaded with {said}, and the mode {name}"):
        MODES[name].check(Described(**settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("trtexec-10", {"cuda_graph": False, "zero_copy": False}),
        ("trtexec-11", {"cuda_graph": True, "zero_copy": False}),
        ("trtexec-11", {"cuda_graph": False, "cuda_graph_fallback": "sizes depend on the data"}),
        ("trtexec-10", {"engine": "cpu", "threads": 1}),
        ("device", {"cuda_graph": False, "zero_copy": True}),
    ],
)
def test_an_engine_that_fits_passes(name: str, settings: dict[str, Any]) -> None:
    MODES[name].check(Described(**settings))


def test_trtexec_11_alone_counts_no_copies() -> None:
    counted = {name: mode.read(COPIES).latency_ms[0] * 1e6 for name, mode in MODES.items()}
    assert counted.pop("trtexec-11") == pytest.approx(6)
    assert list(counted.values()) == pytest.approx([2 + 6 + 3] * 4)


def test_the_two_of_trtexec_have_its_percentiles() -> None:
    rules = {name: mode.percentiles for name, mode in MODES.items()}
    assert {name for name, rule in rules.items() if rule == "trtexec"} == {
        "trtexec-10",
        "trtexec-11",
    }


def test_application_runs_the_engine_from_arrays_to_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    seen: list[np.ndarray] = []
    with load(save(classifier(), tmp_path / "net.onnx"), threads=1) as engine:
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda inputs: seen.append(run(inputs)["logits"]))
        query = MODES["application"].query(engine, {"x": x})
        measured = measure(query, iterations=2, duration_s=0, warm_up_ms=0)
    assert len(measured.times) == len(seen) == 2
    np.testing.assert_allclose(seen[1], logits_of(x), rtol=1e-4, atol=1e-5)


def test_other_modes_repeat_a_bound_query(tmp_path: Path) -> None:
    x = np.ones((3, 5), np.float32)
    with load(save(classifier(), tmp_path / "net.onnx"), threads=1) as engine:
        query: Any = MODES["trtexec-10"].query(engine, {"x": x})
        query()
        np.testing.assert_allclose(query.outputs()["logits"], logits_of(x), rtol=1e-4, atol=1e-5)
