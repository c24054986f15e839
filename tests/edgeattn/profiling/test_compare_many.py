"""Comparisons of reports, of engines beside reports, and of several candidates."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import sha256_of_file, write_json
from edgeattn.engine.base import Engine
from edgeattn.engine.load import load
from edgeattn.errors import ArtifactError, DataError, EngineError, SpecError
from edgeattn.profiling.board.energy import EnergyPerQuery
from edgeattn.profiling.compare import FIGURES, compare, compare_many
from edgeattn.profiling.comparison import timed
from edgeattn.profiling.layers import engine_layers
from edgeattn.profiling.layers.rows import LayerProfile
from edgeattn.profiling.measurement import Measurement
from edgeattn.profiling.modes import MODES
from edgeattn.profiling.profile import profile
from edgeattn.profiling.report import LatencyReport
from tests.edgeattn.profiling.comparison.made import board, layers, report, times
from tests.graphs import WEIGHT, classifier, logits_of, save

QUICK: dict[str, Any] = {"iterations": 12, "duration_s": 0, "warm_up_ms": 0, "threads": 1}
UNWATCHED: dict[str, Any] = QUICK | {"board": False}
X = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
SLOW, FAST = times(500, 5.0, seed=1), times(600, 4.0, seed=2)


def saved(made: LatencyReport, path: Path) -> Path:
    write_json(path, made.to_dict())
    return path


@pytest.fixture
def graphs(tmp_path: Path) -> list[Path]:
    """Three graphs of one model, of which the last two lose more and more."""
    weights = (WEIGHT, np.round(WEIGHT, 1), np.round(WEIGHT))
    return [
        save(classifier("b", each), tmp_path / f"{name}.onnx")
        for name, each in zip(("exact", "tenths", "ones"), weights, strict=True)
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Note which sides were timed, run by run."""
    runs: list[list[str]] = []
    real: Callable[..., dict[str, Measurement]] = timed.measure_interleaved

    def noted(queries: Any, **loop: Any) -> dict[str, Measurement]:
        runs.append(list(queries))
        return real(queries, **loop)

    monkeypatch.setattr(timed, "measure_interleaved", noted)
    return runs


def test_reports_are_compared_by_their_own_queries(tmp_path: Path) -> None:
    a = saved(report(SLOW, "a.engine"), tmp_path / "a.profile.json")
    b = saved(report(FAST, "b.engine"), tmp_path / "b.profile.json")
    found = compare(a, b, fail_if=["p50 > -10%", "p99 > +5%", "p50_ms > 4.5"])
    ratio = found.ratios["p50"]
    assert ratio.value == found.latency_ratio == pytest.approx(0.8, rel=0.01)
    assert ratio.interval is not None
    assert ratio.interval[0] < 0.8 < ratio.interval[1] < 0.81
    assert [gate.word for gate in found.gates] == ["passed"] * 3
    assert (found.num_samples, found.outputs, found.top1_drop) == (0, {}, None)
    assert (found.a.name, found.b.name) == ("a.profile.json", "b.profile.json")
    parents = found.manifest.parents
    assert parents["b_report"].sha256 == sha256_of_file(b)
    assert parents["b_engine"].file == "b.engine"
    assert found.warnings == (
        "A and B were measured in different runs: what changed in between is in their ratio, and "
        "not in its interval",
    )
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(values["figures"]) == set(FIGURES)
    assert values["figures"]["sqnr_db"] is None
    assert values["a"]["source"] == "report"


def test_a_report_that_profile_wrote_is_compared_with_its_engine(
    graphs: list[Path], tmp_path: Path, asked: list[list[str]]
) -> None:
    shape = {"x": (4, 5)}
    measured = profile(graphs[0], shapes=shape, output=tmp_path / "r.profile.json", **UNWATCHED)
    found = compare(tmp_path / "r.profile.json", graphs[0], **UNWATCHED)
    assert asked == [["B"]]
    assert found.latency_a == measured.latency
    assert found.b.inputs == shape  # the shapes of the report are those of the engine's inputs
    assert "same engine" in found.warnings[0]
    assert found.outputs == {}


def test_engines_beside_a_report_are_measured_in_its_mode(graphs: list[Path]) -> None:
    for mode in ("application", "trtexec-11"):
        measured = profile(graphs[0], {"x": X}, mode=mode, **UNWATCHED)
        found = compare(measured, graphs[1], {"x": X}, **UNWATCHED)
        assert found.b.mode == MODES[mode].sentence == found.mode


def test_reports_of_different_modes_are_refused_unless_that_is_wanted(graphs: list[Path]) -> None:
    a, b = report(SLOW), report(FAST, mode=MODES["trtexec-11"].sentence)
    with pytest.raises(DataError, match="the reports are A device, B trtexec-11") as caught:
        compare(a, b)
    assert "--any-mode" in caught.value.hint
    found = compare_many(a, [b, graphs[0]], {"x": X}, any_mode=True, **UNWATCHED)
    assert found.pairs[0].ratios["p50"].value < 1
    assert any(text.startswith("the latencies hold different") for text in found.warnings)
    assert found.pairs[1].b.mode_name == "host"


def test_modes_do_not_matter_where_latencies_do_not(graphs: list[Path]) -> None:
    b = report(FAST, mode=MODES["trtexec-11"].sentence)
    found = compare_many(graphs[0], [b, graphs[1]], {"x": X}, latency=False, threads=1)
    assert [pair.ratios for pair in found.pairs] == [{}, {}]
    assert found.pairs[1].num_samples == 9


def test_an_engine_cannot_be_measured_in_a_mode_that_nobody_knows(graphs: list[Path]) -> None:
    with pytest.raises(DataError, match="A one query at a time"):
        compare(report(SLOW, mode="one query at a time"), graphs[0], {"x": X}, **UNWATCHED)


def test_all_engines_are_timed_in_one_run_and_held_against_the_first(
    graphs: list[Path], asked: list[list[str]]
) -> None:
    labels = np.argmax(logits_of(X), axis=1)
    found = compare_many(graphs[0], graphs[1:], {"x": X}, labels, **UNWATCHED)
    assert asked == [["A", "B", "C"]]
    assert [side.letter for side in found.sides] == ["A", "B", "C"]
    for pair, graph in zip(found.pairs, graphs[1:], strict=True):
        alone = compare(graphs[0], graph, {"x": X}, labels, latency=False, threads=1)
        assert pair.outputs == alone.outputs
        assert (pair.top1_a, pair.top1_b) == (alone.top1_a, alone.top1_b)
        assert pair.a.latency is found.pairs[0].a.latency
        assert pair.b.name == graph.name
        assert pair.ratios["p50"].value == pair.latency_ratio
    values = found.to_dict()
    assert [side["name"] for side in values["sides"]] == [path.name for path in graphs]
    assert values["comparisons"][1] == found.pairs[1].to_dict()


def test_engines_and_reports_mix_in_any_order(graphs: list[Path], asked: list[list[str]]) -> None:
    old = profile(graphs[0], {"x": X}, **UNWATCHED)
    found = compare_many(graphs[0], [old, graphs[2]], {"x": X}, **UNWATCHED)
    assert asked[-1] == ["A", "C"]
    assert found.pairs[0].outputs == {}
    assert found.pairs[1].outputs["logits"].sqnr_db < 60
    assert not any("different runs" in text for text in found.pairs[1].differences)
    assert any("different runs" in text for text in found.pairs[0].differences)


def test_engines_need_batches_of_one_size_whichever_they_are(tmp_path: Path) -> None:
    files = [save(classifier(size), tmp_path / f"{size}.onnx") for size in ("b", 2, 3)]
    with pytest.raises(EngineError, match="batches of 2 and of 3 samples"):
        compare_many(files[0], files[1:], {"x": X}, **UNWATCHED)
    found = compare_many(files[0], files[:2], {"x": X}, **UNWATCHED)
    assert {side.inputs["x"] for side in found.sides} == {(2, 5)}


def test_loaded_engines_are_named_and_stay_open(graphs: list[Path]) -> None:
    with load(graphs[0], threads=1) as engine:
        found = compare(engine, engine, {"x": X}, **(UNWATCHED | {"threads": None}))
        assert found.a.name == "exact.onnx"
        engine.run({"x": X})


def test_modules_are_compared_where_both_have_them() -> None:
    a, b = (report(SLOW, layers=layers(("stem", ms), ("head", 1.0))) for ms in (2.0, 1.0))
    found = compare_many(a, [b, report(FAST)])
    assert {m.label: m.change_ms for m in found.pairs[0].modules} == {"stem": -1.0, "head": 0.0}
    assert found.pairs[1].modules == ()


def test_layers_of_engines_are_measured_if_asked_for_and_failing_at_that_is_told(
    graphs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: list[float | None] = []

    def measured(
        engine: Engine, inputs: Any, whole_ms: float | None, **options: bool
    ) -> LayerProfile:
        assert options == {"measure_ceiling": False}
        whole.append(whole_ms)
        if len(whole) == 3:
            raise EngineError("no times of layers")
        return layers(("stem", float(len(whole))))

    monkeypatch.setattr(engine_layers, "engine_layers", measured)
    found = compare_many(graphs[0], graphs[1:], {"x": X}, layers=True, **UNWATCHED)
    assert whole == [side.latency.p50_ms for side in found.sides if side.latency]
    assert [(m.ms_a, m.ms_b) for m in found.pairs[0].modules] == [(1.0, 2.0)]
    assert found.pairs[1].modules == ()
    assert "C: the layers could not be measured: no times of layers" in found.warnings
    compare(graphs[0], graphs[1], {"x": X}, layers=True, latency=False, threads=1)
    assert whole[3:] == [None, None]


def test_engines_are_watched_while_they_are_timed(graphs: list[Path]) -> None:
    found = compare(graphs[0], graphs[1], {"x": X}, **QUICK)
    assert found.b.board is not None
    assert found.b.board.verdict.word in ("stable", "unknown", "throttled")
    assert found.b.board.energy is None


def test_what_the_report_of_a_candidate_costs_is_a_figure_to_fail_on() -> None:
    cost = EnergyPerQuery(31.5, 0.4, 52.0, 4600.0, 11800.0, "VDD_IN", "made up", 1400, 15.0)
    b = report(FAST, board=replace(board(), energy=cost))
    found = compare(report(SLOW), b, fail_if=["energy_mj > 30", "throughput_qps < 200"])
    assert found.violations == ("energy_mj > 30: it is 31.5",)
    with pytest.raises(SpecError, match="has no energy_mj"):
        compare(b, report(SLOW), fail_if=["energy_mj > 30"])


def test_too_few_queries_of_a_percentile_are_no_reason_to_fail() -> None:
    a, b = report(times(150)), report(times(150, 9.0))
    found = compare(a, b, fail_if=["p99 > +5%", "p50 > +5%", "p99_9 > +5%"])
    assert [gate.word for gate in found.gates] == [
        "too close to call",
        "failed",
        "too close to call",
    ]
    assert (len(found.violations), len(found.undecided)) == (1, 2)
    with pytest.raises(SpecError, match="no latency of both sides"):
        compare(a, b, fail_if=["p50 > +5%"], latency=False)


def test_a_report_without_single_queries_has_ratios_and_no_bounds() -> None:
    found = compare(report(SLOW, export_times=()), report(FAST))
    assert found.latency_ratio == pytest.approx(0.8, rel=0.01)
    assert found.ratios["p50"].missing == "the reports hold no single queries"


def test_what_cannot_be_compared_is_refused(graphs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one candidate"):
        compare_many(graphs[0], [])
    with pytest.raises(DataError, match="all that is compared are reports"):
        compare(report(SLOW), report(FAST), {"x": X})
    with pytest.raises(ArtifactError, match=r"there is no file .*gone\.profile\.json"):
        compare(graphs[0], tmp_path / "gone.profile.json")
    (tmp_path / "half.json").write_text('{"manifest": ')
    with pytest.raises(ArtifactError, match="is not a latency report"):
        compare(graphs[0], tmp_path / "half.json")


def test_accuracy_of_reports_is_no_gate_and_that_is_told_before_any_work(
    graphs: list[Path], asked: list[list[str]]
) -> None:
    with pytest.raises(SpecError, match="sqnr_db < 30 cannot be judged: C is a report"):
        compare_many(graphs[0], [graphs[1], report(FAST)], {"x": X}, fail_if=["sqnr_db < 30"])
    assert asked == []


def test_a_page_that_cannot_be_written_is_refused_before_any_work(
    graphs: list[Path], tmp_path: Path, asked: list[list[str]]
) -> None:
    with pytest.raises(ArtifactError, match="there is no folder"):
        compare_many(graphs[0], graphs[1:], {"x": X}, html=tmp_path / "none" / "c.html")
    before = graphs[2].read_bytes()
    with pytest.raises(ArtifactError, match=r"ones\.onnx is to be compared and written"):
        compare_many(graphs[0], graphs[1:], {"x": X}, html=graphs[2])
    assert graphs[2].read_bytes() == before
    assert asked == []
