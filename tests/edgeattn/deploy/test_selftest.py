"""The self-test: right engines pass in every precision, a broken machine is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeattn.deploy import selftest
from edgeattn.deploy.selftest import SelfTestCase, run_selftest, write_graph
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.load import load
from edgeattn.engine.verify_check import VerifyCheck
from edgeattn.errors import BuildError
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes


def test_the_network_is_one_attention_layer_of_two_window_sizes(tmp_path: Path) -> None:
    graph = write_graph(tmp_path / "net.onnx")
    (node,) = attention_nodes(load_graph(graph))
    assert node.name == "attention"
    tokens = np.random.default_rng(0).standard_normal((2, 14, 14, 96)).astype(np.float32)
    with load(graph) as engine:
        out = engine.run({"tokens": tokens})["out"]
    assert out.shape == tokens.shape
    assert 0.1 < np.std(out - tokens) < 10  # attention does something, and of sensible size


def test_every_precision_passes_on_the_cpu(tmp_path: Path) -> None:
    said: list[tuple[int, int | None, str]] = []
    cases = run_selftest(tmp_path, "cpu", progress=lambda *args: said.append(args))
    assert [case.precision for case in cases] == ["fp32", "fp16", "int8"]
    assert all(case.passed for case in cases)
    for case in cases:
        verdicts = {check.name: check.verdict for check in case.checks}
        assert verdicts.pop("CUDA graph") == "skipped"
        assert set(verdicts.values()) == {"ok"}
        assert case.finding().level == "ok"
        assert json.loads(json.dumps(case.to_dict()))["passed"] is True
    assert [what for _, _, what in said] == [f"self-test {c.precision}" for c in cases]


def test_a_machine_that_computes_wrongly_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what `load` opens is spoilt, as a broken kernel spoils the engine and not the CPU."""

    class Spoilt(CpuEngine):
        def run(self, inputs):  # type: ignore[no-untyped-def]
            return {name: 1.2 * array for name, array in super().run(inputs).items()}

    def load_spoilt(path: Path) -> CpuEngine:
        engine = load(path)
        engine.__class__ = Spoilt
        return engine  # type: ignore[return-value]

    monkeypatch.setattr(selftest, "load", load_spoilt)
    cases = run_selftest(tmp_path, "cpu")
    assert not any(case.passed for case in cases)
    finding = cases[0].finding()
    assert finding.level == "error"
    assert finding.topic == "self-test fp32, the CPU engine"
    assert "reference: out is 20 %" in finding.text


def test_a_build_that_fails_is_a_finding_with_its_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*args: object, **kwargs: object) -> None:
        raise BuildError("TensorRT built no engine: out of memory", "close the desktop")

    monkeypatch.setattr(selftest, "build", build)
    cases = run_selftest(tmp_path, "cpu")
    finding = cases[0].finding()
    assert (finding.level, finding.fix) == ("error", "close the desktop")
    assert finding.text == "TensorRT built no engine: out of memory"
    assert not cases[0].passed


def test_a_case_names_how_attention_was_lowered() -> None:
    check = VerifyCheck("reference", "ok", "0.1 % from the CPU on 8 samples", 0.001)
    case = SelfTestCase("tensorrt", "fp16", "plugin", (check,))
    assert case.finding().topic == "self-test fp16, attention plugin"
    assert case.finding().text == "1 checks passed; 0.1 % from the CPU on 8 samples"


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_every_precision_passes_with_tensorrt(tmp_path: Path) -> None:
    cases = run_selftest(tmp_path, "tensorrt")
    assert cases
    assert not [case.finding().text for case in cases if not case.passed]
