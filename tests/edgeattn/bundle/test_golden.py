"""Golden tensors: what the graph computes, and bounds that pass faithful engines and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeattn
from edgeattn.artifacts import Manifest
from edgeattn.bundle import golden as golden_module
from edgeattn.bundle.golden import Golden, check_golden, make_golden, run_golden
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.load import load
from edgeattn.engine.reference import FLOORS
from edgeattn.errors import DataError, EngineError
from tests.edgeattn.bundle.bundles import attention
from tests.graphs import classifier, from_text, int8_chain, logits_of
from tests.graphs import save as save_graph


@dataclass
class Played:
    """An engine that yields what a test says, for the batches that it takes."""

    answer: Any
    inputs: tuple[TensorSpec, ...]
    manifest: Manifest
    outputs: tuple[TensorSpec, ...] = ()
    settings: Mapping[str, Any] = None  # type: ignore[assignment]
    batches: list[int] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.batches, self.settings = [], {}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(inputs["x"]))
        return {"logits": self.answer(inputs["x"]).astype(np.float32)}


def played(answer: Any, batch: int | str = "batch", target: str = "cpu", **report: Any) -> Any:
    spec = TensorSpec("x", "float32", (batch, 5))
    return Played(answer, (spec,), Manifest("engine", target=target, report=report))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_graph(classifier(), tmp_path_factory.mktemp("golden") / "net.onnx")


@pytest.fixture(scope="module")
def golden(graph: Path) -> Golden:
    return make_golden(graph)


def verdicts(engine: Any, golden: Golden) -> list[str]:
    return [check.verdict for check in check_golden(engine, golden)]


def test_the_outputs_are_what_the_graph_computes(golden: Golden) -> None:
    assert golden.inputs["x"].shape == (8, 5)
    np.testing.assert_allclose(golden.outputs["logits"], logits_of(golden.inputs["x"]), rtol=1e-5)


def test_equal_seeds_give_equal_samples(graph: Path, golden: Golden) -> None:
    np.testing.assert_array_equal(make_golden(graph).inputs["x"], golden.inputs["x"])
    assert not np.array_equal(make_golden(graph, seed=1).inputs["x"], golden.inputs["x"])


def test_a_graph_in_fp32_may_be_off_by_tf32_on_tensorrt_alone(graph: Path, golden: Golden) -> None:
    assert golden.tolerances["cpu"]["logits"].rms == FLOORS["fp32"].bound.rms
    assert golden.tolerances["tensorrt"]["logits"].rms == FLOORS["tf32"].bound.rms
    strict = make_golden(graph, tf32=False).tolerances
    assert strict["tensorrt"] == strict["cpu"]


def test_a_tolerance_tells_where_it_comes_from(golden: Golden) -> None:
    reason = golden.tolerances["tensorrt"]["logits"].reason
    assert reason.startswith("3 times the noise that tf32 makes on these inputs, 0 %")
    assert FLOORS["tf32"].reason in reason


def test_the_noise_of_int8_widens_the_tolerance(tmp_path: Path) -> None:
    graph = save_graph(int8_chain(4), tmp_path / "net.onnx")
    golden = make_golden(graph)
    (tolerance,) = golden.tolerances["cpu"].values()
    assert tolerance.rms > FLOORS["int8"].bound.rms
    assert golden.tolerances["tensorrt"] == golden.tolerances["cpu"]
    with load(graph) as engine:
        assert verdicts(engine, golden) == ["ok"]


@pytest.mark.parametrize("off", [0.0, 5e-5])
def test_an_engine_within_the_tolerance_passes(golden: Golden, off: float) -> None:
    assert verdicts(played(lambda x: logits_of(x) * (1 + off)), golden) == ["ok"]


FAULTS = {
    "one percent more": lambda x: logits_of(x) * 1.01,
    "classes swapped": lambda x: logits_of(x)[:, ::-1],
    "rows swapped": lambda x: logits_of(x)[::-1],
    "zeros": lambda x: np.zeros((len(x), 3)),
    "not a number": lambda x: logits_of(x) * np.nan,
    "the first row for all": lambda x: np.repeat(logits_of(x)[:1], len(x), axis=0),
    "half of one value": lambda x: logits_of(x) * np.where(np.arange(3) == 1, 0.99, 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_engine_that_is_wrong_fails(golden: Golden, fault: str) -> None:
    (check,) = check_golden(played(FAULTS[fault]), golden)
    assert check.verdict == "failed"
    assert "allowed are 0.01 % (one element 0.1 %)" in check.detail
    assert check.to_dict()["detail"] == check.detail


def test_another_shape_fails(golden: Golden) -> None:
    (check,) = check_golden(played(lambda x: logits_of(x)[:, :2]), golden)
    assert check.verdict == "failed"
    assert check.detail.startswith("of another shape than the golden output or not finite")


@pytest.mark.parametrize("batch", [1, 3, 8, 16])
def test_an_engine_of_a_fixed_batch_gets_that_batch(golden: Golden, batch: int) -> None:
    engine = played(logits_of, batch)
    assert run_golden(engine, golden)["logits"].shape == (8, 3)
    assert set(engine.batches) == {batch}


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_an_engine_gets_whole_batches_that_it_was_tuned_for(golden: Golden, batch: int) -> None:
    engine = played(logits_of, target="tensorrt", profiles=[{"opt": {"x": [batch, 5]}}])
    assert verdicts(engine, golden) == ["ok"]
    assert set(engine.batches) == {batch}


def test_samples_may_be_given(graph: Path) -> None:
    x = np.random.default_rng(5).standard_normal((11, 5)).astype(np.float32)
    golden = make_golden(graph, {"x": x})
    np.testing.assert_array_equal(golden.inputs["x"], x)
    np.testing.assert_allclose(golden.outputs["logits"], logits_of(x), rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_one_sample_is_too_few(graph: Path, count: int) -> None:
    with pytest.raises(DataError, match="fewer than 2 golden samples were given"):
        make_golden(graph, {"x": np.zeros((count, 5), np.float32)})


def test_samples_that_do_not_fit_are_refused(graph: Path) -> None:
    with pytest.raises(DataError, match="expected 5"):
        make_golden(graph, {"x": np.zeros((2, 4), np.float32)})


def test_random_samples_have_the_shapes_that_are_asked_for(graph: Path) -> None:
    assert make_golden(graph, shapes=[{"x": (3, 5)}]).inputs["x"].shape == (9, 5)


def test_a_fixed_batch_is_filled_with_several_queries(tmp_path: Path) -> None:
    graph = save_graph(classifier(batch=3), tmp_path / "net.onnx")
    golden = make_golden(graph)
    assert golden.inputs["x"].shape == (9, 5)
    np.testing.assert_allclose(golden.outputs["logits"], logits_of(golden.inputs["x"]), rtol=1e-5)
    uneven = make_golden(graph, {"x": golden.inputs["x"][:4]})
    np.testing.assert_array_equal(uneven.outputs["logits"], golden.outputs["logits"][:4])


def test_a_graph_whose_output_has_no_rows_is_run_once(tmp_path: Path) -> None:
    text = "g (float[2,5] x) => (float[1] y) { y = ReduceSum<keepdims=0>(x) z = Neg(y) }"
    model = from_text(text.replace(" z = Neg(y)", "").replace("float[1] y", "float y"))
    graph = save_graph(model, tmp_path / "net.onnx")
    golden = make_golden(graph)
    assert golden.inputs["x"].shape == (2, 5)
    np.testing.assert_allclose(golden.outputs["y"], golden.inputs["x"].sum(), rtol=1e-5)
    with load(graph) as engine:
        assert verdicts(engine, golden) == ["ok"]


def test_inputs_that_numpy_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = from_text("g (bfloat16[2,5] x) => (bfloat16[2,5] y) { y = Neg(x) }")
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(EngineError, match="x is bfloat16, which numpy does not have"):
        make_golden(tmp_path / "net.onnx")


def test_a_graph_whose_own_engine_is_off_gets_no_golden_tensors(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path) -> Any:
        engine = load(path)
        run = engine.run
        monkeypatch.setattr(engine, "run", lambda x: {k: v * 1.1 for k, v in run(x).items()})
        return engine

    monkeypatch.setattr(golden_module, "load", wrong)
    with pytest.raises(EngineError, match="the CPU engine itself misses the golden outputs"):
        make_golden(graph)


def test_a_tolerance_that_passes_anything_is_no_check(graph: Path, golden: Golden) -> None:
    tolerance = golden.tolerances["cpu"]["logits"]
    loose = Golden(
        golden.inputs,
        golden.outputs,
        {"cpu": {"logits": type(tolerance)(0.6, 2.0, "rounding")}},
    )
    (check,) = check_golden(played(lambda x: logits_of(x) * 1.3), loose)
    assert check.verdict == "skipped"
    assert "which is no check: make the bundle with real --golden-inputs" in check.detail
    (check,) = check_golden(played(lambda x: logits_of(x) * 9), loose)
    assert check.verdict == "failed"


@pytest.mark.parametrize("tolerances", [{}, {"cpu": {}}, {"tensorrt": {}}])
def test_without_a_tolerance_nothing_passes(golden: Golden, tolerances: Any) -> None:
    bare = Golden(golden.inputs, golden.outputs, tolerances)
    with pytest.raises(EngineError, match="tolerances for none"):
        check_golden(played(logits_of), bare)


def test_an_output_that_is_missing_is_named(golden: Golden) -> None:
    other = Golden(golden.inputs, {"probabilities": np.zeros((8, 3))}, golden.tolerances)
    with pytest.raises(EngineError, match="yields logits; there are golden outputs of probab"):
        check_golden(played(logits_of), other)


def test_attention_is_golden_too(tmp_path: Path) -> None:
    graph = attention(tmp_path / "net.onnx")
    golden = make_golden(graph)
    with load(edgeattn.build(graph, engine="cpu")) as engine:
        assert verdicts(engine, golden) == ["ok"]
