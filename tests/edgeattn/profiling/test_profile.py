"""Profiling an engine: the report, its JSON with trtexec's keys, and what is refused."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, manifest_path, read_manifest, write_json
from edgeattn.engine.base import QueryTimes
from edgeattn.engine.build import build
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt.load import TensorRtRunOptions
from edgeattn.errors import (
    ArtifactError,
    BoardError,
    DataError,
    EngineError,
    MissingDependencyError,
    SpecError,
)
from edgeattn.profiling import profile as profile_module
from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.board.verdict import Verdict
from edgeattn.profiling.board.watch import BoardState, BoardWatch
from edgeattn.profiling.environment import Environment, collect_environment
from edgeattn.profiling.layers import engine_layers
from edgeattn.profiling.layers.roofline import Ceiling
from edgeattn.profiling.modes import HOST, MODES
from edgeattn.profiling.profile import profile
from edgeattn.profiling.report import LatencyReport, read_report
from edgeattn.profiling.report_files import ReportFiles
from tests.graphs import classifier, int8_chain, save

QUICK = {"iterations": 5, "duration_s": 0, "warm_up_ms": 0, "board": False}
KEYS = {
    "startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs",
    "startD2hMs", "endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs",
}  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return build(save(classifier(1), tmp_path / "net.onnx"), threads=1)


def test_a_report_holds_statistics_of_its_queries(engine: Path) -> None:
    report = profile(engine, **QUICK)
    latencies = [entry["latencyMs"] for entry in report.export_times]
    assert len(latencies) == report.latency.num_samples == 5
    assert report.latency.max_ms == max(latencies)
    assert report.latency.p50_ms == sorted(latencies)[2]
    assert report.latency.p99_ms is None
    assert report.compute == report.enqueue == report.latency
    assert report.h2d.max_ms == report.d2h.max_ms == 0
    assert report.throughput_qps > 0
    assert report.inputs == {"x": (1, 5)}
    assert report.settings == {"engine": "cpu", "threads": 1}
    assert report.end_to_end == report.latency
    assert report.mode == HOST.sentence
    assert report.manifest.options["mode"] == "host"
    start, end = report.window_ns
    assert end - start >= sum(latencies) * 0.99e6


def test_the_file_has_the_keys_of_trtexec_and_reads_back(engine: Path) -> None:
    output = engine.with_name("net.profile.json")
    report = profile(engine, output=output, **QUICK)
    values = json.loads(output.read_text())
    assert [set(entry) for entry in values["exportTimes"]] == [KEYS] * 5
    assert values["manifest"]["kind"] == "report"
    assert read_report(output) == report


def test_the_report_names_the_engine_by_its_hash(engine: Path) -> None:
    report = profile(engine, **QUICK)
    parent = report.manifest.parents["engine"]
    assert (parent.file, parent.sha256) == (
        "net.engine",
        read_manifest(engine).files["net.engine"],
    )
    assert report.manifest.options["iterations"] == 5
    assert report.manifest.target == "cpu"


def test_a_raw_graph_is_named_as_such(tmp_path: Path) -> None:
    report = profile(save(classifier(1), tmp_path / "net.onnx"), threads=1, **QUICK)
    assert report.manifest.parents["graph"].file == "net.onnx"


def test_a_loaded_engine_is_measured_and_stays_open(engine: Path) -> None:
    x = np.ones((1, 5), np.float32)
    with load(engine) as loaded:
        report = profile(loaded, {"x": x}, **QUICK)
        loaded.run({"x": x})
    assert "random_inputs_seed" not in report.manifest.options


def test_a_loaded_file_is_closed_again(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    close = CpuEngine.close
    monkeypatch.setattr(CpuEngine, "close", lambda self: (closed.append(1), close(self)))
    profile(engine, **QUICK)
    assert closed == [1]


def test_free_dimensions_need_shapes_or_inputs(tmp_path: Path) -> None:
    engine = build(save(classifier(), tmp_path / "net.onnx"), threads=1)
    with pytest.raises(DataError, match="no size for the dimension batch"):
        profile(engine, **QUICK)
    assert profile(engine, shapes={"x": (7, 5)}, **QUICK).inputs == {"x": (7, 5)}


def test_the_arithmetic_of_an_int8_engine_is_stated(tmp_path: Path) -> None:
    engine = build(save(int8_chain(1, batch=1), tmp_path / "net.onnx"), threads=1)
    stated = profile(engine, **QUICK).settings["int8_arithmetic"]
    assert stated == read_manifest(engine).report["int8_arithmetic"]


def test_the_default_is_ten_queries_at_least(engine: Path) -> None:
    assert profile(engine, duration_s=0, warm_up_ms=0, board=False).latency.num_samples == 10


def test_wrong_inputs_and_numbers_are_refused_and_leave_no_file(engine: Path) -> None:
    output = engine.with_name("net.profile.json")
    with pytest.raises(DataError, match="expected 1"):
        profile(engine, {"x": np.ones((3, 5), np.float32)}, output=output)
    with pytest.raises(DataError, match="iterations is 0"):
        profile(engine, output=output, iterations=0)
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_refused_before_the_measurement(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "measure", lambda *a, **k: pytest.fail("measured"))
    with pytest.raises(ArtifactError, match="there is no folder"):
        profile(engine, output=engine.parent / "none" / "r.json")


def test_every_file_of_a_report_is_written(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_measuring_the_ceiling(monkeypatch)
    names = {"report": "r.json", "html": "r.html", "trace": "t.json",
             "export_times": "times.json", "export_profile": "layers.json"}  # fmt: skip
    files = {role: engine.with_name(name) for role, name in names.items()}
    report = profile(engine, output=ReportFiles(**files), layers=True, **QUICK)
    assert read_report(files["report"]) == report
    assert "<title>net.engine" in files["html"].read_text()
    assert json.loads(files["trace"].read_text())["traceEvents"]
    assert json.loads(files["export_times"].read_text()) == list(report.export_times)
    layers = json.loads(files["export_profile"].read_text())
    assert set(layers[0]) == {"count"}
    assert [set(layer) for layer in layers[1:]] == [
        {"name", "timeMs", "averageMs", "medianMs", "percentage"}
    ] * len(report.layers.rows)
    values = json.loads(files["report"].read_text())
    assert values["exportProfile"] == layers


@pytest.mark.parametrize("role", ["report", "html", "trace", "export_times", "export_profile"])
def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(
    engine: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setattr(profile_module, "measure", lambda *a, **k: pytest.fail("measured"))
    for path, why in ((engine.parent / "none" / "r", "there is no folder"), (engine, "two files")):
        with pytest.raises(ArtifactError, match=why):
            profile(engine, output=ReportFiles(**{role: path}), layers=True)
    assert read_manifest(engine)


def test_one_name_for_two_files_is_refused(engine: Path) -> None:
    same = engine.with_name("r.json")
    with pytest.raises(ArtifactError, match="two files at once"):
        profile(engine, output=ReportFiles(report=same, trace=same))


def test_a_page_without_jinja2_is_refused_before_the_measurement(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    without = lambda name, *rest: None if name == "jinja2" else find_spec(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    monkeypatch.setattr(profile_module, "measure", lambda *a, **k: pytest.fail("measured"))
    with pytest.raises(MissingDependencyError, match="jinja2"):
        profile(engine, output=ReportFiles(html=engine.with_name("r.html")))


def test_the_board_is_watched_from_before_to_after_the_queries(engine: Path) -> None:
    report = profile(engine, **QUICK | {"board": True, "duration_s": 0.6})
    assert report.board is not None
    times = [sample.time_ns for sample in report.board.trace.samples]
    start, end = report.window_ns
    assert min(times) < start < end
    assert any(start < time < end for time in times)
    assert report.board.verdict.word in ("stable", "unknown", "throttled")
    assert LatencyReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_a_throttled_board_is_warned_of(
    engine: Path, monkeypatch: pytest.MonkeyPatch, calm: Environment
) -> None:
    with_query(monkeypatch, lambda self: QueryTimes(0, 1, 0, 0, 0, 9, 9, 9))
    state = BoardState(BoardTrace(), Verdict("throttled", ("thermal, seen once",)), None, "why")
    monkeypatch.setattr(BoardWatch, "state", lambda self, measurement: state)
    (warning,) = profile(engine, **QUICK | {"board": True}).warnings
    assert warning == "the board did not keep its clocks: thermal, seen once"


def test_layers_that_cannot_be_measured_cost_no_latency(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise EngineError("no memory for a second session")

    monkeypatch.setattr(profile_module, "engine_layers", fail)
    output = engine.with_name("r.json")
    report = profile(engine, layers=True, output=output, **QUICK)
    assert report.layers is None
    assert "the layers could not be measured: no memory for a second session" in report.warnings
    assert read_report(output) == report
    files = ReportFiles(export_profile=engine.with_name("p.json"))
    with pytest.raises(ArtifactError, match="the layers were not measured"):
        profile(engine, layers=True, output=files, **QUICK)
    with pytest.raises(DataError, match="not to be measured"):
        profile(engine, output=files, **QUICK)


def test_layers_refer_to_the_latency_unless_that_is_of_something_else(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []
    monkeypatch.setattr(profile_module, "engine_layers", lambda e, i, ms: asked.append(ms))
    report = profile(engine, layers=True, **QUICK)
    profile(engine, layers=True, streams=2, **QUICK)
    profile(engine, layers=True, mode="application", **QUICK)
    assert asked == [report.latency.p50_ms, None, None]


def test_a_sustained_run_follows_the_measurement(engine: Path) -> None:
    output = engine.with_name("r.json")
    report = profile(engine, sustained_minutes=0.005, output=output, **QUICK)
    assert report.latency.num_samples == 5
    (minute,) = report.sustained.minutes
    assert minute.num_samples > 0
    assert read_report(output) == report
    assert report.manifest.options["sustained_minutes"] == 0.005


@pytest.mark.parametrize(
    ("part", "options"),
    [("sustain", {"sustained_minutes": 1}), ("engine_layers", {"layers": True})],
)
def test_what_is_interrupted_after_the_measurement_does_not_cost_it(
    engine: Path, monkeypatch: pytest.MonkeyPatch, part: str, options: dict[str, Any]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(profile_module, part, interrupted)
    output = engine.with_name("r.json")
    with pytest.raises(KeyboardInterrupt):
        profile(engine, output=output, **options, **QUICK)
    assert read_report(output).latency.num_samples == 5


def test_a_length_that_is_none_is_refused(engine: Path) -> None:
    with pytest.raises(DataError, match="sustained_minutes is -1"):
        profile(engine, sustained_minutes=-1, **QUICK)


def test_builds_are_repeated_before_the_measurement_and_told(engine: Path) -> None:
    output = engine.with_name("r.json")
    report = profile(engine, repeat_builds=2, output=output, **QUICK)
    assert [row.role for row in report.builds.rows] == ["present", "again", "build", "build"]
    assert report.builds.identical
    assert report.manifest.options["repeat_builds"] == 2
    assert read_report(output) == report


def test_builds_of_what_is_no_file_are_refused(engine: Path) -> None:
    with load(engine) as loaded, pytest.raises(DataError, match="an engine's file to replace"):
        profile(loaded, repeat_builds=1, **QUICK)
    with pytest.raises(DataError, match="repeat_builds is -1"):
        profile(engine, repeat_builds=-1, **QUICK)
    with pytest.raises(DataError, match="sources here are given, and the engine is not built"):
        profile(engine, sources="here", **QUICK)


def test_locked_clocks_are_named_and_unlocked_after_everything(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def lock() -> Iterator[tuple[str, ...]]:
        events.append("locked")
        yield ("the board by jetson_clocks",)
        events.append("unlocked")

    monkeypatch.setattr(profile_module, "locked_clocks", lock)
    monkeypatch.setattr(profile_module, "engine_layers", lambda *a: events.append("layers"))
    report = profile(engine, lock_clocks=True, layers=True, **QUICK)
    assert events == ["locked", "layers", "unlocked"]
    assert report.locked_clocks == ("the board by jetson_clocks",)
    assert LatencyReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_clocks_that_a_crash_left_locked_are_restored_and_said(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "restore_clocks", lambda: True)
    assert any("had left locked were restored" in w for w in profile(engine, **QUICK).warnings)

    def busy() -> bool:
        raise BoardError("another process has the clocks locked")

    monkeypatch.setattr(profile_module, "restore_clocks", busy)
    assert "another process has the clocks locked" in profile(engine, **QUICK).warnings


def test_a_report_from_before_layers_and_boards_is_read(engine: Path) -> None:
    report = profile(engine, **QUICK)
    values = json.loads(json.dumps(report.to_dict()))
    for name in ("layers", "board", "verdict", "energy", "no_energy", "locked_clocks",
                 "build_report", "exportProfile", "sustained", "builds"):  # fmt: skip
        del values[name]
    assert LatencyReport.from_dict(values) == report


def without_measuring_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the processor's ceiling up: it takes seconds, and is tested where it is made."""
    made_up = Ceiling("made up", 10.0, {"float32": 100.0, "int8": 200.0})
    monkeypatch.setattr(engine_layers, "cpu_ceiling", lambda threads: made_up)


def with_query(monkeypatch: pytest.MonkeyPatch, timed: Callable[[Any], QueryTimes]) -> None:
    """Give the CPU engine's queries scripted times."""
    from edgeattn.engine import cpu

    monkeypatch.setattr(cpu._CpuQuery, "timed", timed, raising=False)


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """A machine that does nothing else, at fixed clocks."""
    found = replace(collect_environment(), load_average=0.1, governor="performance")
    monkeypatch.setattr(profile_module, "collect_environment", lambda: found)
    return found


@pytest.mark.parametrize(("last", "warned"), [(105, False), (110, True)])  # a CV of 2.0 and 3.9 %
def test_unstable_latency_is_warned_of(
    engine: Path, monkeypatch: pytest.MonkeyPatch, calm: Environment, last: int, warned: bool
) -> None:
    ends = iter([100, 100, 100, 100, last])

    def timed(self: object) -> QueryTimes:
        end = next(ends)
        return QueryTimes(0, 1, 0, 0, 0, end, end, end)

    with_query(monkeypatch, timed)
    warnings = profile(engine, **QUICK).warnings
    assert any("coefficient of variation is 3.9 %" in text for text in warnings) == warned
    assert len(warnings) == int(warned)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_average": 1.5, "logical_cores": 2}, "the machine was busy: a load of 1.5"),
        ({"governor": "powersave"}, "the frequency governor is powersave"),
    ],
)
def test_a_machine_that_disturbs_is_warned_of(
    engine: Path,
    monkeypatch: pytest.MonkeyPatch,
    calm: Environment,
    changes: dict[str, Any],
    said: str,
) -> None:
    with_query(monkeypatch, lambda self: QueryTimes(0, 1, 0, 0, 0, 9, 9, 9))
    assert profile(engine, **QUICK).warnings == ()
    monkeypatch.setattr(profile_module, "collect_environment", lambda: replace(calm, **changes))
    (warning,) = profile(engine, **QUICK).warnings
    assert said in warning


def test_the_spread_settles_or_is_warned_of(
    engine: Path, monkeypatch: pytest.MonkeyPatch, calm: Environment
) -> None:
    with_query(monkeypatch, lambda self: QueryTimes(0, 1, 0, 0, 0, 9, 9, 9))
    settled = profile(engine, settle_s=5, **QUICK)
    assert (settled.settled, settled.warnings) == (True, ())
    ends = (int(1.3**i) for i in range(1, 2000))

    def growing(self: object) -> QueryTimes:
        end = next(ends)
        return QueryTimes(0, 1, 0, 0, 0, end, end, end)

    with_query(monkeypatch, growing)
    report = profile(engine, settle_s=1e-6, **QUICK)
    assert report.settled is False
    assert any("did not settle" in text for text in report.warnings)
    assert report.manifest.options["settle_s"] == 1e-6


def test_several_streams_are_counted_together_and_said(engine: Path) -> None:
    report = profile(engine, streams=3, **QUICK | {"iterations": 4})
    assert report.latency.num_samples == len(report.export_times) == 12
    assert report.settings == {"engine": "cpu", "threads": 1, "streams": 3}
    assert any(text.startswith("3 queries ran at the same time") for text in report.warnings)


def test_streams_and_settling_do_not_go_together(engine: Path) -> None:
    for options in ({"streams": 0}, {"streams": 2, "settle_s": 1.0}):
        with pytest.raises(DataError, match=f"streams is {options['streams']}"):
            profile(engine, **options)


@pytest.mark.parametrize("mode", ["trtexec-10", "trtexec-11"])
def test_the_modes_of_trtexec_have_its_percentiles(engine: Path, mode: str) -> None:
    report = profile(engine, mode=mode, **QUICK | {"iterations": 4})
    ordered = sorted(entry["latencyMs"] for entry in report.export_times)
    assert report.latency.p50_ms == (ordered[1] + ordered[2]) / 2
    assert report.latency.p99_ms == ordered[3]
    assert report.mode == MODES[mode].sentence


def test_application_times_the_whole_call(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = CpuEngine.run
    monkeypatch.setattr(CpuEngine, "run", lambda self, x: (calls.append(1), run(self, x))[1])
    monkeypatch.setattr(CpuEngine, "bind", lambda *a: pytest.fail("bound"))
    report = profile(engine, mode="application", **QUICK)
    assert len(calls) == 5
    assert report.mode.startswith("application: what a Python caller waits for")


def test_a_mode_that_does_not_fit_is_refused_before_loading(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "load", lambda *a, **k: pytest.fail("loaded"))
    for mode in ("device", "fastest"):
        with pytest.raises(SpecError, match=mode):
            profile(engine, mode=mode)


@pytest.mark.parametrize(
    ("mode", "streams", "given", "expected"),
    [
        (None, 1, None, None),
        (None, 3, None, TensorRtRunOptions(contexts=3)),
        (None, 2, TensorRtRunOptions(contexts=4), TensorRtRunOptions(contexts=4)),
        ("trtexec-10", 1, None, TensorRtRunOptions(cuda_graph=False, zero_copy=False)),
        (
            "trtexec-11",
            2,
            TensorRtRunOptions(device=1),
            TensorRtRunOptions(device=1, contexts=2, zero_copy=False),
        ),
    ],
)
def test_a_tensorrt_engine_is_loaded_for_mode_and_streams(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    streams: int,
    given: TensorRtRunOptions | None,
    expected: TensorRtRunOptions | None,
) -> None:
    plan = tmp_path / "net.engine"
    plan.write_bytes(b"plan")
    write_json(manifest_path(plan), Manifest("engine", target="tensorrt").to_dict())
    asked: list[TensorRtRunOptions | None] = []

    def note(path: Path, *, threads: int | None, tensorrt: TensorRtRunOptions | None) -> None:
        asked.append(tensorrt)
        raise EngineError("no TensorRT here")

    monkeypatch.setattr(profile_module, "load", note)
    with pytest.raises(EngineError, match="no TensorRT here"):
        profile(plan, mode=mode, streams=streams, tensorrt=given)
    assert asked == [expected]


def test_a_report_from_before_these_figures_is_read(engine: Path) -> None:
    report = profile(engine, **QUICK)
    values = json.loads(json.dumps(report.to_dict()))
    for name in ("end_to_end", "settled", "window_ns"):
        del values[name]
    for name in ("latency", "h2d", "compute", "d2h", "enqueue"):
        del values[name]["p50_interval_ms"]
    found = LatencyReport.from_dict(values)
    assert (found.end_to_end, found.settled, found.window_ns) == (None, None, None)
    assert found.latency == replace(report.latency, p50_interval_ms=None)


def test_times_that_a_device_tells_are_reported(
    engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ms = 1_000_000
    marks = QueryTimes(0, ms, 0, ms, 2 * ms, 7 * ms, 8 * ms, 10 * ms)
    with_query(monkeypatch, lambda self: marks)
    report = profile(engine, **QUICK)
    found = [s.p50_ms for s in (report.h2d, report.compute, report.d2h, report.latency)]
    assert found == [1, 5, 2, 8]
    assert report.enqueue.p50_ms == 1


@pytest.mark.parametrize(
    "values",
    [None, [], {}, {"manifest": Manifest("report").to_dict()},
     {"manifest": Manifest("report").to_dict(), "mode": "", "settings": {}, "inputs": []}],
)  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path: Path, values: object) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"not a latency report|not an edgeattn|malformed"):
        read_report(path)


@pytest.mark.parametrize(
    "change",
    [{"window_ns": [1]}, {"inputs": {"x": 7}}, {"latency": []}, {"sustained": {"minutes": []}}],
)
def test_a_part_that_is_none_is_refused_with_the_name_of_the_file(
    engine: Path, change: dict[str, Any]
) -> None:
    path = engine.with_name("r.json")
    path.write_text(json.dumps(profile(engine, **QUICK).to_dict() | change))
    with pytest.raises(ArtifactError, match=r"r\.json is a malformed latency report: "):
        read_report(path)


def test_a_report_of_another_format_version_is_refused(engine: Path) -> None:
    values = profile(engine, **QUICK).to_dict()
    values["manifest"] = values["manifest"] | {"format_version": 7}
    with pytest.raises(ArtifactError, match="format version 7"):
        LatencyReport.from_dict(values)
