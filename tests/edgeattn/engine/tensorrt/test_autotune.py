"""Choosing how attention is computed, on real queries of the CPU engine with planted times.

`build` writes the lowered graph where TensorRT would write a plan, and `open_engine` runs it on the
CPU: what is decided here is decided as on a board, but for the times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.autotune import NOTHING_TO_CHOOSE, Autotuned, autotune_lines, query_ms
from edgeattn.engine.base import BoundQuery, Engine, QueryTimes
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.cpu_lowering import lower_for_cpu
from edgeattn.engine.tensorrt.autotune import (
    BuiltWay,
    autotune_attention,
    tensorrt_candidates,
)
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.engine.typed import TypedGraph
from edgeattn.engine.variants import Variant, make_variants
from edgeattn.errors import (
    BuildError,
    EdgeAttnError,
    EngineError,
    MissingDependencyError,
    PluginError,
)
from edgeattn.graph.op import make_attention_node
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import foreign_attention
from tests.graphs import classifier

OLD, NEW = TensorRtVersion.parse("10.3.0"), TensorRtVersion.parse("10.16.1")
SPEC = AttentionSpec(32, 2, (HeadGroup(2, (4, 4)),))
PROFILE = ShapeProfile(opt={"qkv": (2, 8, 8, SPEC.qkv_channels)})
OPTIONS = TensorRtOptions(profiles=(PROFILE,))


def model(batch: int | str = "batch") -> onnx.ModelProto:
    """One attention node, as a graph of its own."""
    sizes = {"qkv": SPEC.qkv_channels, "out": SPEC.out_channels}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 8, 8, channels])
        for name, channels in sizes.items()
    ]
    node = make_attention_node(SPEC, ["qkv"], "out", "attention")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("edgeattn", 1)]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def alone(model: onnx.ModelProto) -> tuple[Variant, ...]:
    """A graph whose author put the attention nodes there: it has one form."""
    return (Variant("windows", TypedGraph(model, Path("net.onnx"), {})),)


def slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


class Bench:
    """Builds for the CPU, and times queries by a clock of its own.

    Args:
        takes_ms: What a query of each engine takes.
        fails: Engines that cannot be built, or not opened if their name ends in `!`.
        spoils: Engines whose outputs are multiplied by something.
    """

    def __init__(
        self,
        takes_ms: Mapping[str, float],
        fails: Mapping[str, EdgeAttnError] | None = None,
        spoils: Mapping[str, float] | None = None,
    ) -> None:
        self.takes_ms = {slug(name): takes for name, takes in takes_ms.items()}
        self.fails = {slug(name): failure for name, failure in (fails or {}).items()}
        self.spoils = {slug(name): factor for name, factor in (spoils or {}).items()}
        self.built: list[str] = []
        self.open: list[str] = []
        self.most_open = 0
        self.ran: dict[str, list[np.ndarray]] = {}

    def build(
        self,
        lowered: LoweredForTensorRt,
        options: TensorRtOptions,
        plan: Path,
        progress: Any,
        log: Any,
    ) -> Any:
        if plan.stem in self.fails:
            raise self.fails[plan.stem]
        self.built.append(plan.stem)
        if progress:
            progress(1, 2, "tactics")
        plan.write_bytes(lower_for_cpu(lowered.model).SerializeToString())
        return SimpleNamespace(
            plan=plan,
            seconds=2.5,
            plan_bytes=1000,
            device_memory_bytes=2000,
            used_plugin_libraries=(),
        )

    @contextmanager
    def open_engine(
        self, built: Any, lowered: LoweredForTensorRt, options: TensorRtOptions
    ) -> Iterator[Engine]:
        name = built.plan.stem
        if f"{name}!" in self.fails:
            raise self.fails[f"{name}!"]
        manifest = Manifest("engine", target="cpu", options={"threads": 1})
        with CpuEngine(built.plan.read_bytes(), manifest) as engine:
            self.open.append(name)
            self.most_open = max(self.most_open, len(self.open))
            yield _Named(engine, name, self)
            self.open.remove(name)

    def time_query(self, query: Any) -> float:
        query()
        return self.takes_ms[query.way]

    def run(
        self, folder: Path, version: TensorRtVersion = OLD, **arguments: Any
    ) -> Autotuned[BuiltWay]:
        return autotune_attention(
            arguments.pop("variants", None) or alone(arguments.pop("model", None) or model()),
            arguments.pop("options", OPTIONS),
            folder,
            version=version,
            build=self.build,
            open_engine=self.open_engine,
            time_query=self.time_query,
            **arguments,
        )


class _Named:
    """An engine whose queries know their way."""

    def __init__(self, engine: CpuEngine, way: str, bench: Bench) -> None:
        self._engine, self._way, self._bench = engine, way, bench

    def bind(self, inputs: Mapping[str, np.ndarray]) -> BoundQuery:
        self._bench.ran[self._way] = list(inputs.values())
        return _NamedQuery(
            self._engine.bind(inputs), self._way, self._bench.spoils.get(self._way, 1)
        )


class _NamedQuery:
    def __init__(self, query: BoundQuery, way: str, factor: float) -> None:
        self._query, self.way, self._factor = query, way, factor

    def __call__(self) -> None:
        self._query()

    def outputs(self) -> dict[str, np.ndarray]:
        return {name: self._factor * array for name, array in self._query.outputs().items()}


def names(variants: tuple[Variant, ...], version: TensorRtVersion) -> list[str]:
    return [candidate.name for candidate in tensorrt_candidates(variants, version)]


def outcomes(result: Autotuned[BuiltWay]) -> dict[str, str]:
    return {way.name: way.outcome for way in result.ways}


def test_the_faster_way_is_kept_and_the_others_plan_is_removed(tmp_path: Path) -> None:
    bench = Bench({"plugin": 5.0, "native": 4.0})
    result = bench.run(tmp_path)
    assert (result.winner.name, outcomes(result)) == ("native", {"plugin": "lost", "native": "won"})
    assert result.built.lowered.way == "native"
    assert [path.name for path in tmp_path.iterdir()] == [result.built.build.plan.name]
    onnx.load(result.built.build.plan)
    assert bench.most_open == 2  # interleaved rounds need both at once
    np.testing.assert_array_equal(bench.ran["plugin"][0], bench.ran["native"][0])
    assert bench.ran["plugin"][0].shape == PROFILE.opt["qkv"]


@pytest.mark.parametrize("native", [5.0, 4.97, 6.0])
def test_the_plugin_stays_where_nothing_is_surely_faster(tmp_path: Path, native: float) -> None:
    result = Bench({"plugin": 5.0, "native": native}).run(tmp_path)
    assert (result.winner.name, result.built.build.plan.name) == ("plugin", "plugin.plan")
    plugin, other = result.ways
    assert plugin.reason == "5 ms, no other is surely faster"
    assert f"{native:.4g} ms, {native / 5:.3f} times that of plugin" in other.reason
    assert other.reason.endswith("ahead in 0 of 16 rounds: not faster by the margin")
    assert (plugin.median_ms, other.median_ms) == (5.0, native)


def test_onnx_attention_is_a_way_where_the_version_has_it(tmp_path: Path) -> None:
    assert names(alone(model()), OLD) == ["plugin", "native"]
    assert names(alone(model()), NEW) == ["plugin", "native", "attention"]
    bench = Bench({"plugin": 5.0, "native": 4.5, "attention": 4.0})
    result = bench.run(tmp_path, NEW)
    assert bench.built == ["plugin", "native", "attention"]
    assert result.winner.name == "attention"
    assert "but attention is faster still" in result.ways[1].reason
    assert "attention is surely faster" in result.ways[0].reason


@pytest.mark.parametrize("where", ["plugin", "plugin!"])
def test_a_way_that_cannot_be_built_or_opened_is_told_and_the_other_wins(
    tmp_path: Path, where: str
) -> None:
    failure = PluginError("there is no plugin library for sm_87", "edgeattn plugin build")
    bench = Bench({"native": 9.0, "attention": 9.0}, fails={where: failure})
    result = bench.run(tmp_path, NEW)
    assert (result.winner.name, outcomes(result)["plugin"]) == ("native", "failed")
    assert result.ways[0].reason == failure.message
    assert result.ways[0].median_ms is None
    assert "times that of native" in result.ways[2].reason
    assert [path.name for path in tmp_path.iterdir()] == ["native.plan"]


@pytest.mark.parametrize("where", ["plugin", "plugin!"])
def test_the_last_way_that_works_wins_without_a_race(tmp_path: Path, where: str) -> None:
    bench = Bench({"native": 9.0}, fails={where: EngineError("out of memory")})
    result = bench.run(tmp_path)
    assert (result.winner.name, result.ways[1].reason) == ("native", "the only one that works")


def test_a_way_that_computes_something_else_is_out_however_fast(tmp_path: Path) -> None:
    bench = Bench({"plugin": 5.0, "native": 1.0}, spoils={"native": 1.05})
    result = bench.run(tmp_path)
    assert (result.winner.name, outcomes(result)["native"]) == ("plugin", "failed")
    assert "its output out is" in result.ways[1].reason
    assert "allowed are" in result.ways[1].reason
    spoilt_plugin = Bench({"plugin": 1.0, "native": 5.0}, spoils={"plugin": float("nan")})
    assert spoilt_plugin.run(tmp_path).winner.name == "native"


def test_float32_may_be_tf32_unless_it_is_switched_off(tmp_path: Path) -> None:
    bench = Bench({"plugin": 5.0, "native": 1.0}, spoils={"native": 1.001})
    assert bench.run(tmp_path).winner.name == "native"
    exact = TensorRtOptions(profiles=(PROFILE,), tf32=False)
    assert bench.run(tmp_path, options=exact).winner.name == "plugin"


def test_no_way_that_works_is_an_error_with_every_reason(tmp_path: Path) -> None:
    fails = {
        "plugin": PluginError("there is no library", "build one"),
        "native": BuildError("TensorRT built no engine"),
    }
    with pytest.raises(BuildError, match="plugin: there is no library; native: TensorRT") as caught:
        Bench({}, fails=fails).run(tmp_path)
    assert caught.value.hint == "build one"
    both_wrong = Bench({"plugin": 1.0, "native": 1.0}, spoils={"plugin": 2.0, "native": 2.0})
    with pytest.raises(BuildError, match="attention can be built in no way"):
        both_wrong.run(tmp_path)


def test_a_missing_tensorrt_is_no_failure_of_a_way(tmp_path: Path) -> None:
    missing = MissingDependencyError("TensorRT cannot be imported")
    with pytest.raises(MissingDependencyError):
        Bench({}, fails={"native": missing}).run(tmp_path)


def test_without_attention_nodes_there_is_one_build_and_no_race(tmp_path: Path) -> None:
    bench = Bench({})
    options = TensorRtOptions(profiles=(ShapeProfile(opt={"x": (1, 5)}),))
    result = bench.run(tmp_path, NEW, model=classifier(), options=options)
    assert bench.built == ["native"]
    assert result.ways[0].reason == NOTHING_TO_CHOOSE
    assert bench.most_open == 0


def test_each_build_reports_its_progress_under_its_own_name(tmp_path: Path) -> None:
    said: list[tuple[int, int | None, str]] = []
    Bench({"plugin": 5.0, "native": 5.0}).run(tmp_path, progress=lambda *args: said.append(args))
    assert (1, 2, "attention plugin: tactics") in said
    assert (1, 2, "attention native: tactics") in said
    assert said[-1] == (2, 3, "time the engines in turns")


def test_the_result_is_json_and_lines_for_people(tmp_path: Path) -> None:
    fails = {"attention": BuildError("no fused kernel fits")}
    result = Bench({"plugin": 5.0, "native": 4.0}, fails=fails).run(tmp_path, NEW)
    values = json.loads(json.dumps(result.to_dict()))
    assert values["winner"] == "native"
    assert "sign test" in values["rule"]
    plugin, native, attention = values["ways"]
    assert plugin["contest"] is None
    assert native["contest"]["wins"] == native["contest"]["rounds"] == 16
    assert (native["build_seconds"], native["plan_bytes"], native["device_memory_bytes"]) == (
        *(2.5, 1000, 2000),
    )
    assert (attention["outcome"], attention["build_seconds"]) == ("failed", None)
    assert autotune_lines(values)[2] == "attention attention: failed, no fused kernel fits"


def test_a_fixed_graph_needs_no_profiles(tmp_path: Path) -> None:
    bench = Bench({"plugin": 5.0, "native": 4.0})
    assert bench.run(tmp_path, model=model(3), options=TensorRtOptions()).winner.name == "native"
    assert bench.ran["native"][0].shape == (3, 8, 8, SPEC.qkv_channels)


def made_forms(folder: Path, blocks: int = 3, **asked: Any) -> tuple[Variant, ...]:
    """The forms of a graph of somebody else; its last block attends to all tokens."""
    graph = folder / "mixed.onnx"
    onnx.save(foreign_attention.windowed(blocks=blocks, last_is_global=True), graph)
    return make_variants(graph, folder, **asked)


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, ...]:
    return made_forms(tmp_path_factory.mktemp("forms"))


def test_a_graph_that_writes_attention_out_is_tried_in_each_form(
    forms: tuple[Variant, ...], tmp_path: Path
) -> None:
    assert names(forms, OLD) == [
        *("plugin", "plugin, global too", "native", "native, as written"),
    ]
    assert names(forms, NEW)[4:] == ["attention"]
    assert names(made_forms(tmp_path, global_attention=True), OLD) == [
        *("plugin, global too", "native, global too", "native, as written"),
    ]
    assert names(made_forms(tmp_path, global_attention=False), OLD) == [
        "plugin",
        "native",
        "native, as written",
    ]
    assert names(made_forms(tmp_path, fuse=False), NEW) == ["native"]


def test_what_would_be_built_anyway_is_the_one_to_beat_also_where_nothing_is_fused(
    tmp_path: Path,
) -> None:
    assert names(made_forms(tmp_path, blocks=1), NEW) == [
        *("native, as written", "plugin, global too", "native, global too", "attention, global too")
    ]
    assert names(made_forms(tmp_path, blocks=1, global_attention=False), NEW) == ["native"]


TAKES_MS = {"plugin": 5.0, "plugin, global too": 6.0, "native": 7.0, "native, as written": 8.0}


@pytest.mark.parametrize("fastest", list(TAKES_MS))
def test_each_form_can_win_and_its_graph_is_what_was_built(
    forms: tuple[Variant, ...], tmp_path: Path, fastest: str
) -> None:
    bench = Bench(TAKES_MS | {fastest: 4.0})
    result = bench.run(tmp_path, variants=forms, options=TensorRtOptions())
    assert result.winner.name == fastest
    assert {name for name, became in outcomes(result).items() if became == "lost"} == {
        name for name in TAKES_MS if name != fastest
    }
    assert result.built.build.plan.stem == slug(fastest)
    assert [path.stem for path in tmp_path.iterdir()] == [slug(fastest)]
    fused = {"native, as written": 0, "plugin, global too": 3}.get(fastest, 2)
    assert result.winner.variant.typed.fusion.get("fused", 0) == fused
    assert result.shapes == {"x": [1, 6, 9, 8]}


def test_a_form_is_held_against_the_graph_as_it_was_given(tmp_path: Path) -> None:
    """A fusion that went wrong would make its engines agree with one another."""
    variants = made_forms(tmp_path)
    weight = next(w for w in variants[0].typed.model.graph.initializer if w.name == "out_weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(2 * foreign_attention.OUT, "out_weight"))
    result = Bench(TAKES_MS).run(tmp_path, variants=variants, options=TensorRtOptions())
    became = outcomes(result)
    assert (became["plugin"], became["native"]) == ("failed", "failed")
    assert result.winner.name == "plugin, global too"


@pytest.mark.gpu
@pytest.mark.tensorrt
def test_tensorrt_builds_the_ways_and_one_wins(tmp_path: Path) -> None:
    result = autotune_attention(alone(model()), OPTIONS, tmp_path, version=installed_version())
    assert result.built.build.plan.is_file()
    assert [way.name for way in result.ways if way.outcome == "won"] == [result.winner.name]
    native = next(way for way in result.ways if way.way == "native")
    assert native.outcome != "failed", native.reason


def test_a_query_is_timed_by_its_own_clock_without_its_pauses() -> None:
    class Timed:
        def __call__(self) -> None: ...

        def outputs(self) -> dict[str, np.ndarray]:
            return {}

        def timed(self) -> QueryTimes:
            return QueryTimes(0, 1, 0, 1_000_000, 5_000_000, 9_000_000, 9_500_000, 9_750_000)

    assert query_ms(Timed()) == 1.0 + 4.0 + 0.25


def test_a_query_without_a_clock_is_timed_on_the_host() -> None:
    class Plain:
        ran = 0

        def __call__(self) -> None:
            self.ran += 1

        def outputs(self) -> dict[str, np.ndarray]:
            return {}

    plain = Plain()
    assert 0 <= query_ms(plain) < 1000
    assert plain.ran == 1
