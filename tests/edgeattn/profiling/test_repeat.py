"""Repeated builds of CPU engines, which are real: bytes are equal, and nothing is replaced."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.artifacts import Manifest, manifest_path, read_manifest, write_json
from edgeattn.engine.build import build
from edgeattn.errors import ArtifactError, DataError, EngineError, SpecError
from edgeattn.profiling import side_by_side
from edgeattn.profiling.repeat import repeat_builds
from edgeattn.profiling.repeat_words import build_sentences, changed_tools
from edgeattn.profiling.repeated_builds import BuildRow, Confirmation, RepeatedBuilds
from edgeattn.profiling.side_by_side import engines_at_once
from edgeattn.profiling.stats import LatencyStats
from tests.graphs import classifier, save

QUICK: dict[str, Any] = {"iterations": 8, "duration_s": 0.0, "warm_up_ms": 0.0}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return build(save(classifier(), tmp_path / "net.onnx"), engine="cpu", threads=1)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[RepeatedBuilds, list[Any]]:
    folder, steps = tmp_path_factory.mktemp("repeated"), []
    engine = build(save(classifier(), folder / "net.onnx"), engine="cpu", threads=1)
    before = content(folder)
    found = repeat_builds(
        engine, 3, shapes={"x": (3, 5)}, progress=lambda *step: steps.append(step), **QUICK
    )
    assert content(folder) == before
    assert {path.name for path in folder.iterdir()} == before.keys()  # nothing is left
    return found, steps


def test_the_engine_the_same_again_and_the_builds_are_measured(repeated):
    found, _ = repeated
    assert [(row.role, row.number) for row in found.rows] == [
        ("present", 0), ("again", 0), ("build", 1), ("build", 2), ("build", 3),
    ]  # fmt: skip
    assert (found.target, found.inputs) == ("cpu", {"x": (3, 5)})
    assert found.mode.startswith("host: ")
    present = found.rows[0]
    for row in found.rows[1:]:
        assert row.latency.num_samples >= 8
        assert row.ratio == pytest.approx(row.latency.p50_ms / present.latency.p50_ms)
        assert row.ratio_interval is not None
        assert row.ratio_interval[0] <= row.ratio <= row.ratio_interval[1]
        assert (row.layers, row.differing, row.differences) == (None, None, ())
    builds = [row.ratio for row in found.rows if row.role != "again"]
    assert found.spread_percent == pytest.approx(100 * (max(builds) / min(builds) - 1))
    assert found.noise_percent == pytest.approx(100 * abs(found.rows[1].ratio - 1))
    assert [row.build_seconds is None for row in found.rows] == [True, True, False, False, False]


def test_equal_bytes_are_said_to_be_noise_and_nothing_is_replaced(repeated):
    found, _ = repeated
    assert found.identical
    assert {row.sha256 for row in found.rows} == {found.rows[0].sha256}
    assert (found.confirmed, found.replaced, found.kept) == (None, False, found.rows[0])
    (sentence,) = found.sentences
    assert sentence.startswith("3 builds gave the bytes of the engine that was there")
    assert "is noise" in sentence
    assert f"differs by {found.noise_percent:.2f} %" in sentence


def test_steps_count_the_builds_and_the_measurement(repeated):
    _, steps = repeated
    assert {total for _, total, _ in steps} == {4}
    assert steps[0] == (0, 4, "build 1 of 3")
    assert (1, 4, "build 2 of 3: read the graph, fuse attention") in steps
    assert steps[-1] == (3, 4, "measure the builds side by side")


def test_a_record_survives_json(repeated):
    found, _ = repeated
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["replaced"] is False
    assert RepeatedBuilds.from_dict(values) == found


@pytest.mark.parametrize("spoil", [
    lambda v: v.pop("rows"),
    lambda v: v["rows"][0].pop("latency"),
    lambda v: v["rows"][1].update(ratio_interval=[1.0]),
    lambda v: v.update(another=1),
    lambda v: v.update(inputs=None),
])  # fmt: skip
def test_a_malformed_record_is_refused(spoil, repeated):
    values = json.loads(json.dumps(repeated[0].to_dict()))
    spoil(values)
    with pytest.raises(ArtifactError, match="malformed"):
        RepeatedBuilds.from_dict(values)


def test_what_is_no_record_is_refused():
    with pytest.raises(ArtifactError, match="malformed"):
        RepeatedBuilds.from_dict([])


def test_engines_that_do_not_fit_into_memory_together_are_measured_few_at_a_time(
    engine, monkeypatch
):
    groups, timed = [], 0

    def count_groups(queries: Any, **loop: Any) -> Any:
        nonlocal timed
        groups.append(len(queries))
        measured = measure(queries, **loop)
        timed += len(measured[""].times)
        return measured

    measure = side_by_side.measure_interleaved
    monkeypatch.setattr(side_by_side, "measure_interleaved", count_groups)
    environment = replace(side_by_side.collect_environment(), memory_available_bytes=0)
    monkeypatch.setattr(side_by_side, "collect_environment", lambda: environment)
    found = repeat_builds(engine, 2, shapes={"x": (1, 5)}, **QUICK)
    assert groups == [2, 2, 2]  # the one that is there, with each of the others
    assert len(found.rows) == 4
    assert found.rows[0].latency.num_samples == timed


def test_half_of_the_free_memory_is_for_engines(engine, monkeypatch):
    manifest, size = read_manifest(engine), engine.stat().st_size
    environment = side_by_side.collect_environment()
    for free, at_once in ((None, 2), (8 * 5 * size, 5), (8 * 6 * size - 1, 5), (8 * size, 2)):
        there = replace(environment, memory_available_bytes=free)
        monkeypatch.setattr(side_by_side, "collect_environment", lambda there=there: there)
        assert engines_at_once(engine, manifest) == at_once


def test_sources_in_another_folder_are_found_there(engine, tmp_path):
    elsewhere = tmp_path / "graphs"
    elsewhere.mkdir()
    (tmp_path / "net.onnx").rename(elsewhere / "net.onnx")
    with pytest.raises(ArtifactError, match=r"the graph net\.onnx that .* was built from is not"):
        repeat_builds(engine, 1, shapes={"x": (1, 5)}, **QUICK)
    found = repeat_builds(engine, 1, shapes={"x": (1, 5)}, sources=elsewhere, **QUICK)
    assert found.identical


def test_what_does_not_fit_is_said_before_anything_is_built(engine, tmp_path, monkeypatch):
    def never(*arguments: Any, **keywords: Any) -> Manifest:
        raise AssertionError("it is built")

    monkeypatch.setattr("edgeattn.profiling.repeat.rebuild", never)
    for error, said, changes in (
        (DataError, "count is 0; expected at least 1 build", {"count": 0}),
        (DataError, "has no size for the dimension batch", {}),
        (DataError, "the input x is float64", {"inputs": {"x": np.zeros((1, 5))}}),
        (SpecError, "there is no mode fast", {"mode": "fast"}),
        (EngineError, r"net\.onnx is a graph", {"engine": tmp_path / "net.onnx"}),
        (ArtifactError, "there is no file", {"engine": tmp_path / "none.engine"}),
    ):
        with pytest.raises(error, match=said):
            repeat_builds(**({"engine": engine, "count": 1} | QUICK | changes))
    engine.write_bytes(b"another")
    with pytest.raises(ArtifactError, match="hashes differ"):
        repeat_builds(engine, 1, **QUICK)


def test_an_interrupted_run_leaves_the_engine_and_nothing_else(engine, tmp_path):
    before = content(tmp_path)

    def interrupt(done: int, total: int | None, what: str) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repeat_builds(engine, 2, shapes={"x": (1, 5)}, progress=interrupt, **QUICK)
    assert content(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == before.keys()


def test_other_tools_than_those_of_the_engine_are_told(engine):
    manifest = read_manifest(engine)
    tools = manifest.tools | {"onnxruntime": "1.0.0"}
    write_json(manifest_path(engine), replace(manifest, tools=tools).to_dict())
    found = repeat_builds(engine, 1, shapes={"x": (1, 5)}, **QUICK)
    assert "built with onnxruntime 1.0.0, the new ones with" in found.sentences[-1]
    assert list(changed_tools(manifest, manifest)) == []


# What it is said to mean


def record(*ratios: float, confirmed: Confirmation | None = None, kept: int = 0) -> RepeatedBuilds:
    """Make the record of builds with these ratios; the engine that was there differs by 0.5 %."""
    latency = LatencyStats.from_samples([1.0])
    there = {"sha256": "a", "bytes": 1, "latency": latency, "layers": 40}
    rows = [
        BuildRow("present", 0, ratio=1.0, ratio_interval=None, kept=not kept, **there),
        BuildRow("again", 0, ratio=1.005, ratio_interval=(1.0, 1.01), **there),
    ]
    for number, ratio in enumerate(ratios, 1):
        is_kept = number == kept
        row = BuildRow("build", number, ratio=ratio, ratio_interval=None, kept=is_kept, **there)
        rows.append(replace(row, sha256=str(number), differing=number - 1))
    everything = [1.0, *ratios]
    spread = 100 * (max(everything) / min(everything) - 1)
    return RepeatedBuilds("tensorrt", "device", {}, tuple(rows), spread, 0.5, False, confirmed, ())


def test_a_spread_is_set_against_the_noise():
    small, large = record(0.995), record(0.99, 1.25)
    assert "spread over 0.50 %, and the same engine" in next(build_sentences(small, 0.01))
    assert next(build_sentences(small, 0.01)).endswith("no more than noise.")
    assert next(build_sentences(large, 0.01)).endswith("more than noise.")
    assert "no more than" not in next(build_sentences(large, 0.01))


def test_other_kernels_are_counted():
    _, kernels, _ = build_sentences(record(0.99, 1.0, 1.0), 0.0)
    assert "in 2 of 3 builds, in up to 2 layers; it has 40." in kernels


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (record(0.99), "was kept: no build is surely faster."),
        (
            record(0.9, confirmed=Confirmation(0.91, (0.9, 0.92)), kept=1),
            "Build 1 took the place of the engine that was there: measured once more, it takes "
            "0.910 times as long (0.900 to 0.920).",
        ),
        (
            record(0.9, confirmed=Confirmation(1.01, None)),
            "was kept: the fastest build is not surely faster a second time; measured once more, "
            "it takes 1.010 times as long.",
        ),
    ],
)
def test_who_was_kept_is_said_with_the_figure_that_decided(found, said):
    assert list(build_sentences(found, 0.0))[-1].endswith(said)


def test_a_faster_build_that_is_wrong_is_said_to_be():
    found = record(0.9, confirmed=Confirmation(0.9, (0.89, 0.91)))
    assert (
        "the fastest build is wrong (finite: NaN); measured"
        in list(build_sentences(found, 0.0, "is wrong (finite: NaN)"))[-1]
    )
