"""Verifying an engine: right ones pass in every precision, each planted fault fails its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeattn
from edgeattn.artifacts import Manifest
from edgeattn.calibration.random_samples import RandomSamples
from edgeattn.engine.base import BoundQuery, Engine, TensorSpec
from edgeattn.engine.load import load
from edgeattn.engine.verify import verify_engine
from edgeattn.engine.verify_check import VerifyCheck
from edgeattn.errors import DataError, EngineError
from edgeattn.models.registry import create_model, get_entry
from tests.graphs import from_text, save

NAMES = (
    *("interface", "finite", "reference", "equal rows", "rows apart", "replay", "shapes"),
    *("CUDA graph", "second build"),
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8+fp16")

TWO_OUTPUTS = """
g (float[batch,6] x) => (float[batch,6] wide, float[batch,6] narrow) {
    scale = Constant<value = float[6] {1.0, 2.0, 3.0, -1.0, 0.5, 4.0}>()
    wide = Mul(x, scale)
    root = Sigmoid(wide)
    narrow = Sub(root, x)
}
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped digit reader, four images at once, in each precision; `other` is untrained."""
    folder = tmp_path_factory.mktemp("graphs")
    spec = replace(get_entry("mswin_nano").input, shape=(4, 1, 28, 28))
    graph = edgeattn.export(create_model("mswin_nano"), spec, folder / "fp32.onnx")
    other = create_model("mswin_nano", weights=None)
    table = edgeattn.calibrate(graph, RandomSamples(8), folder / "t.calib.json", method="minmax")
    found = {"fp32": graph, "other": edgeattn.export(other, spec, folder / "other.onnx")}
    for precision in PRECISIONS[1:]:
        found[precision] = edgeattn.quantize(
            graph,
            folder / f"{precision}.onnx",
            table=table if "int8" in precision else None,
            precision=precision,
        )
    return found


@pytest.fixture
def two_outputs(tmp_path: Path) -> Path:
    return save(from_text(TWO_OUTPUTS), tmp_path / "two.onnx")


class Faulty:
    """An engine of the CPU whose outputs, or bound queries, go through a function."""

    def __init__(
        self,
        engine: Engine,
        spoil: Callable[[dict[str, np.ndarray], Mapping[str, np.ndarray]], dict[str, np.ndarray]],
        bind: Callable[[Engine, Mapping[str, np.ndarray]], BoundQuery] | None = None,
    ) -> None:
        self._engine, self._spoil, self._bind = engine, spoil, bind
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.manifest, self.settings = engine.manifest, engine.settings

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._spoil(self._engine.run(inputs), inputs)

    def bind(self, inputs: Mapping[str, np.ndarray]) -> Any:
        if self._bind:
            return self._bind(self._engine, inputs)
        return _Bound(self, inputs)


class _Bound:
    def __init__(self, engine: Faulty, inputs: Mapping[str, np.ndarray]) -> None:
        self._engine, self._inputs = engine, inputs
        self._outputs: dict[str, np.ndarray] = {}

    def __call__(self) -> None:
        self._outputs = self._engine.run(self._inputs)

    def outputs(self) -> dict[str, np.ndarray]:
        return self._outputs


def verdicts(checks: list[VerifyCheck]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def failed(checks: list[VerifyCheck]) -> list[str]:
    return [check.name for check in checks if check.verdict == "failed"]


def found(checks: list[VerifyCheck], name: str) -> VerifyCheck:
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_right_engine_passes_every_check(graphs: dict[str, Path], precision: str) -> None:
    with load(graphs[precision], threads=1) as engine:
        checks = verify_engine(engine, graphs[precision], without_graph=engine, second_build=engine)
    assert verdicts(checks) == dict.fromkeys(NAMES, "ok") | {"shapes": "skipped"}


def test_an_engine_of_any_batch_passes_at_several(two_outputs: Path) -> None:
    with load(two_outputs) as engine:
        checks = verify_engine(engine, two_outputs, without_graph=engine, second_build=engine)
    assert verdicts(checks) == dict.fromkeys(NAMES, "ok")
    assert found(checks, "shapes").detail.startswith("x:1x6, x:3x6, and the first again: ")


def test_what_nobody_gave_is_skipped_and_says_so(two_outputs: Path) -> None:
    with load(two_outputs) as engine:
        checks = verify_engine(engine, two_outputs)
    assert [c.name for c in checks if c.verdict == "skipped"] == ["CUDA graph", "second build"]
    assert all("was given" in check.detail for check in checks[-2:])


def test_a_fixed_batch_of_one_leaves_its_rows_unchecked(tmp_path: Path) -> None:
    graph = save(from_text(TWO_OUTPUTS.replace("batch", "1")), tmp_path / "one.onnx")
    with load(graph) as engine:
        checks = verdicts(verify_engine(engine, graph))
    assert checks["equal rows"] == checks["rows apart"] == checks["shapes"] == "skipped"
    assert checks["reference"] == checks["replay"] == "ok"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_of_another_training_fail_against_the_reference(
    graphs: dict[str, Path], precision: str
) -> None:
    with load(graphs["other"], threads=1) as engine:
        checks = verify_engine(engine, graphs[precision])
    assert failed(checks) == ["reference"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_output_a_tenth_too_large_fails_in_every_precision(
    graphs: dict[str, Path], precision: str
) -> None:
    with load(graphs[precision], threads=1) as engine:
        faulty = Faulty(engine, lambda out, _: {n: 1.1 * a for n, a in out.items()})
        checks = verify_engine(faulty, graphs[precision])
    assert failed(checks) == ["reference"]
    assert found(checks, "reference").worst == pytest.approx(0.1, rel=0.6)


def test_one_wrong_element_of_a_large_output_is_seen(tmp_path: Path) -> None:
    graph = save(
        from_text("g (float[4,3000] x) => (float[4,3000] y) { y = Neg(x) }"), tmp_path / "n.onnx"
    )

    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        out["y"][2, 1234] += 0.002  # 4e-5 of its sample's root mean square
        return out

    with load(graph) as engine:
        assert "reference" in failed(verify_engine(Faulty(engine, spoil), graph))


def test_swapped_outputs_are_named(two_outputs: Path) -> None:
    with load(two_outputs) as engine:
        swap = Faulty(engine, lambda out, _: {"wide": out["narrow"], "narrow": out["wide"]})
        checks = verify_engine(swap, two_outputs)
    assert failed(checks) == ["reference", "shapes"]
    assert "wide is" in found(checks, "reference").detail
    assert "it is what narrow should be: outputs swapped?" in found(checks, "reference").detail


def test_a_row_that_leaks_into_its_neighbours_fails(graphs: dict[str, Path]) -> None:
    def leak(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        return {n: a + 3e-5 * np.abs(a).max() * a.mean(axis=0) for n, a in out.items()}

    with load(graphs["int8"], threads=1) as engine:
        checks = verify_engine(Faulty(engine, leak), graphs["int8"])
    assert failed(checks) == ["rows apart"]  # equal rows stay equal, INT8's noise hides the rest


def test_rows_that_depend_on_their_place_fail(graphs: dict[str, Path]) -> None:
    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        return {
            n: a * (1 + 0.02 * np.arange(len(a), dtype=a.dtype)[:, None]) for n, a in out.items()
        }

    with load(graphs["fp32"], threads=1) as engine:
        checks = verify_engine(Faulty(engine, spoil), graphs["fp32"])
    assert failed(checks) == ["reference", "equal rows"]


def test_a_graph_that_mixes_its_rows_itself_is_not_blamed(tmp_path: Path) -> None:
    text = "g (float[4,3] x) => (float[4,3] y) { m = ReduceMean<keepdims = 1>(x) y = Sub(x, m) }"
    graph = save(from_text(text), tmp_path / "mixing.onnx")
    with load(graph) as engine:
        check = found(verify_engine(engine, graph), "rows apart")
    assert (check.verdict, check.detail) == (
        "skipped",
        "the graph itself mixes the rows of a batch",
    )


def test_a_graph_whose_outputs_have_no_rows_or_tell_them_apart_is_not_blamed(
    tmp_path: Path,
) -> None:
    sums = """
    g (float[4,3] x) => (float[3] y) {
        axis = Constant<value = int64[1] {0}>()
        y = ReduceSum<keepdims = 0>(x, axis)
    }
    """
    graph = save(from_text(sums), tmp_path / "sums.onnx")
    with load(graph) as engine:
        checks = verify_engine(engine, graph)
    for name in ("equal rows", "rows apart"):
        assert found(checks, name).detail == "no output has a row for each sample"
    counted = """
    g (float[3,1] x) => (float[3,1] y) {
        place = Constant<value = float[3,1] {1.0, 2.0, 3.0}>()
        y = Mul(x, place)
    }
    """
    graph = save(from_text(counted), tmp_path / "counted.onnx")
    with load(graph) as engine:
        check = found(verify_engine(engine, graph), "equal rows")
    assert check.detail == "the graph itself tells the rows of a batch apart"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_located(two_outputs: Path, value: float) -> None:
    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        out["narrow"][-1, 5] = value
        return out

    with load(two_outputs) as engine:
        checks = verify_engine(Faulty(engine, spoil), two_outputs)
    assert {"finite", "reference"} <= set(failed(checks))
    assert "narrow holds 1 values" in found(checks, "finite").detail
    assert "at [3, 5] of query 0" in found(checks, "finite").detail
    assert found(checks, "reference").worst is None


def test_infinities_of_the_graph_itself_are_no_fault(tmp_path: Path) -> None:
    text = "g (float[batch,3] x) => (float[batch,3] y) { zero = Sub(x, x) y = Log(zero) }"
    graph = save(from_text(text), tmp_path / "log.onnx")
    with load(graph) as engine:
        assert not failed(verify_engine(engine, graph))


class _Stale:
    """A captured graph that copies its inputs once, and gives every query the same outputs."""

    kept: BoundQuery | None = None

    @classmethod
    def bind(cls, engine: Engine, inputs: Mapping[str, np.ndarray]) -> BoundQuery:
        cls.kept = cls.kept or engine.bind(inputs)
        return cls.kept


def test_a_graph_that_replays_stale_inputs_fails(graphs: dict[str, Path]) -> None:
    _Stale.kept = None
    with load(graphs["fp16"], threads=1) as engine:
        checks = verify_engine(Faulty(engine, lambda out, _: out, _Stale.bind), graphs["fp16"])
        _Stale.kept = None
    assert failed(checks) == ["replay"]
    assert "in turn 2, which has the outputs of the other query," in found(checks, "replay").detail


def test_an_engine_that_never_reads_new_inputs_fails_against_the_reference(
    two_outputs: Path,
) -> None:
    first: dict[str, np.ndarray] = {}

    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        if not first:
            first.update(out)
        return first

    with load(two_outputs) as engine:
        checks = verify_engine(Faulty(engine, spoil), two_outputs)
    assert "reference" in failed(checks)
    assert "stale inputs?" in found(checks, "reference").detail


def test_a_shape_other_than_the_first_that_goes_wrong_fails(two_outputs: Path) -> None:
    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        return {n: a if len(a) == 4 else np.roll(a, 1, axis=1) for n, a in out.items()}

    with load(two_outputs) as engine:
        checks = verify_engine(Faulty(engine, spoil), two_outputs)
    assert failed(checks) == ["shapes"]
    assert "at x:" in found(checks, "shapes").detail


def test_a_first_shape_that_goes_wrong_after_another_one_fails(two_outputs: Path) -> None:
    seen = []

    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        seen.append(len(out["wide"]))
        stale = seen[-1] == 4 and 3 in seen
        return {n: 0.99 * a if stale else a for n, a in out.items()}

    with load(two_outputs) as engine:
        check = found(verify_engine(Faulty(engine, spoil), two_outputs), "shapes")
    assert check.verdict == "failed"
    assert "at the first shape, run again" in check.detail


def test_a_shape_that_the_engine_refuses_fails_with_its_reason(two_outputs: Path) -> None:
    def spoil(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        if len(out["wide"]) == 1:
            raise EngineError("1 is below the profile's least batch")
        return out

    with load(two_outputs) as engine:
        checks = verify_engine(Faulty(engine, spoil), two_outputs)
    assert failed(checks) == ["shapes"]
    assert "the engine refuses a query: 1 is below" in found(checks, "shapes").detail


def test_the_engine_without_a_graph_and_the_second_build_are_held_against_it(
    graphs: dict[str, Path],
) -> None:
    with load(graphs["fp16"], threads=1) as engine:
        slightly = Faulty(engine, lambda out, _: {n: a * 1.0002 for n, a in out.items()})
        checks = verify_engine(
            engine, graphs["fp16"], without_graph=slightly, second_build=slightly
        )
        assert failed(checks) == ["CUDA graph"]  # another build may choose other tactics
        far = Faulty(engine, lambda out, _: {n: a * 1.05 for n, a in out.items()})
        checks = verify_engine(engine, graphs["fp16"], without_graph=engine, second_build=far)
    assert failed(checks) == ["second build"]


def test_an_engine_with_random_rounding_may_differ_as_much_as_it_does(two_outputs: Path) -> None:
    rng = np.random.default_rng(3)

    def jitter(out: dict[str, np.ndarray], _: Any) -> dict[str, np.ndarray]:
        return {
            n: a * (1 + 1e-5 * rng.uniform(-1, 1, a.shape).astype(a.dtype)) for n, a in out.items()
        }

    with load(two_outputs) as engine:
        shaky = Faulty(engine, jitter)
        assert not failed(verify_engine(shaky, two_outputs, without_graph=shaky))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "images"}, "the input x is missing; the graph has no input images"),
        ({"dtype": "float16"}, "should be x: float32"),
        ({"shape": ("batch", 7)}, "should be x: float32[batch, 6]"),
        ({"shape": (6,)}, "should be x: float32[batch, 6]"),
    ],
)
def test_tensors_that_are_not_the_graphs_fail_and_nothing_else_is_tried(
    two_outputs: Path, change: dict[str, Any], told: str
) -> None:
    with load(two_outputs) as engine:
        faulty = Faulty(engine, lambda out, _: out)
        faulty.inputs = (replace(engine.inputs[0], **change),)
        checks = verify_engine(faulty, two_outputs)
    assert failed(checks) == ["interface"]
    assert told in checks[0].detail
    assert {check.verdict for check in checks[1:]} == {"skipped"}


def test_a_batch_that_the_engine_fixes_is_heeded(two_outputs: Path) -> None:
    with load(two_outputs) as engine:
        fixed = Faulty(engine, lambda out, _: out)
        fixed.inputs = (TensorSpec("x", "float32", (5, 6)),)
        checks = verify_engine(fixed, two_outputs)
    assert not failed(checks)
    assert "on 10 samples" in found(checks, "reference").detail
    assert found(checks, "shapes").verdict == "skipped"


def test_given_shapes_and_samples_are_used(two_outputs: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    seen: list[np.ndarray] = []

    def spy(out: dict[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(inputs["x"])
        return out

    shapes = [{"x": (2, 6)}, {"x": (7, 6)}]
    with load(two_outputs) as engine:
        checks = verify_engine(Faulty(engine, spy), two_outputs, shapes=shapes, inputs={"x": rows})
        assert not failed(checks)
        assert "x:7x6, and the first again" in found(checks, "shapes").detail
        np.testing.assert_array_equal(np.concatenate(seen[:4]), rows[[0, 1, 2, 0, 1, 2, 0, 1]])
        with pytest.raises(DataError, match="expected at least 2"):
            verify_engine(engine, two_outputs, inputs={"x": rows[:1]})
        with pytest.raises(DataError, match="the input x has no shape to verify with"):
            verify_engine(engine, two_outputs, shapes=[{"images": (1, 6)}])


def test_sizes_that_nothing_tells_are_tried_until_the_graph_takes_one(tmp_path: Path) -> None:
    text = """
    g (float[batch,tokens] x) => (float[batch,32] y) {
        zeros = Constant<value = float[32] {%s}>()
        y = Add(x, zeros)
    }
    """
    graph = save(from_text(text % ", ".join(["0.5"] * 32)), tmp_path / "wide.onnx")
    with load(graph) as engine:
        checks = verify_engine(engine, graph)
    assert not failed(checks)
    assert "x:1x32" in found(checks, "shapes").detail


def test_float32_on_a_gpu_may_be_tf32_unless_it_was_switched_off(two_outputs: Path) -> None:
    def off_by(part: float, options: dict[str, Any]) -> list[str]:
        with load(two_outputs) as engine:
            faulty = Faulty(engine, lambda out, _: {n: a * (1 + part) for n, a in out.items()})
            faulty.manifest = Manifest("engine", target="tensorrt", options={"tensorrt": options})
            return failed(verify_engine(faulty, two_outputs))

    assert not off_by(5e-4, {})
    assert off_by(5e-4, {"tf32": False}) == ["reference", "shapes"]
    assert off_by(5e-3, {}) == ["reference", "shapes"]


def test_half_inputs_and_outputs_are_verified_as_they_are(tmp_path: Path) -> None:
    text = "g (float16[batch,6] x) => (float16[batch,6] y) { y = Sigmoid(x) }"
    graph = save(from_text(text), tmp_path / "half.onnx")
    with load(graph) as engine:
        assert not failed(verify_engine(engine, graph))
        wrong = Faulty(engine, lambda out, _: {n: a * np.float16(1.05) for n, a in out.items()})
        assert failed(verify_engine(wrong, graph)) == ["reference", "shapes"]


def test_noise_that_drowns_the_output_is_not_judged(tmp_path: Path) -> None:
    text = """
    g (float[batch,6] x) => (float[batch,6] y) {
        scale = Constant<value = float {3.0}>()
        zero = Constant<value = int8 {0}>()
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
    }
    """
    graph = save(from_text(text), tmp_path / "coarse.onnx")
    with load(graph) as engine:
        check = found(verify_engine(engine, graph), "reference")
        wrong = Faulty(engine, lambda out, _: {n: 9 * a for n, a in out.items()})
        assert "reference" in failed(verify_engine(wrong, graph))  # beyond any noise
    assert check.verdict == "skipped"
    assert "rounding to int8 alone moves y by more than 17 %" in check.detail


def test_checks_are_reported_as_they_run(two_outputs: Path) -> None:
    said: list[tuple[int, int | None, str]] = []
    with load(two_outputs) as engine:
        checks = verify_engine(engine, two_outputs, progress=lambda *args: said.append(args))
    assert said == [(done, len(NAMES), name) for done, name in enumerate(NAMES)]
    assert [check.name for check in checks] == list(NAMES)
    assert checks[0].to_dict() == {
        "name": "interface",
        "verdict": "ok",
        "detail": "names, types and shapes of x, wide, narrow",
        "worst": None,
    }
