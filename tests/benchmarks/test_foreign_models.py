"""The benchmark of foreign models: its list, one tiny model through it, and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import bench_foreign_models, foreign_exports
from benchmarks.bench_foreign_models import (
    case_of,
    compare_engines,
    describe,
    fuse_graph,
    measure_model,
    simplify_graph,
    windows_of,
)
from benchmarks.foreign_exports import exported
from benchmarks.foreign_models import MODELS, OTHER_WINDOWS, WINDOWED, WITHOUT_WINDOWS, PublicModel
from tests.scripts import load_script

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

TINY = PublicModel(
    "tiny",
    "this repository",
    "SuperResolution",
    "nowhere",
    (1, 3, 8, 8),
    settings={"channels": 8, "depths": [2], "num_heads": [2], "window_size": 4},
)
BROKEN = PublicModel("broken", "torchvision", "no_such_model", "nowhere", (1, 3, 8, 8))


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    return load_script(PAGE.with_name("refresh_models.py"))


def test_the_list_has_models_of_each_kind_each_once() -> None:
    models = (*WINDOWED, *OTHER_WINDOWS, *WITHOUT_WINDOWS)
    assert len(MODELS) == len(models) >= 30
    assert len(WINDOWED) >= 20
    assert len(WITHOUT_WINDOWS) >= 10
    for kind, group in (("windows", WINDOWED), ("other windows", OTHER_WINDOWS)):
        assert {model.kind for model in group} == {kind}
    assert {model.library for model in models} >= {"transformers", "timm", "torchvision"}


def test_inputs_are_images_or_tokens_and_always_the_same() -> None:
    image, tokens = MODELS["hf-swin-t"].example, MODELS["hf-bert-base"].example
    assert image.dtype == "float32"
    assert image.shape == (1, 3, 224, 224)
    assert tokens.dtype == "int64"
    assert tokens.shape == (1, 128)
    assert (tokens == MODELS["hf-bert-base"].example).all()


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.library == "timm"])
def test_timm_publishes_weights_of_the_configuration(name: str) -> None:
    from tests.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    timm = pytest.importorskip("timm")
    model = MODELS[name]
    assert timm.is_model_pretrained(model.architecture)
    assert model.published in timm.list_pretrained(f"{model.architecture}*")
    assert timm.get_pretrained_cfg(model.published).input_size == model.input_shape[1:]


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.library == "transformers"])
def test_transformers_knows_each_setting(name: str) -> None:
    from tests.torchvision_ops import declare_torchvision_ops

    declare_torchvision_ops()
    transformers = pytest.importorskip("transformers")
    model = MODELS[name]
    config_class = getattr(transformers, model.architecture).config_class
    known = config_class()
    for setting in model.settings:
        assert hasattr(known, setting), setting


def test_a_tiny_model_goes_through_all_steps(tmp_path: Path) -> None:
    path, export = exported(TINY, tmp_path)
    assert export["exporter"] == "dynamo"
    assert export["trouble"] == []
    assert export["error"] < 1e-5

    fusion = fuse_graph(path)
    fused = fusion["fused"]
    assert fusion["found"] == fused + fusion["left"] == 2
    assert fusion["windows"]["4x4 shifted"] == 1
    assert sum(fusion["windows"].values()) == fused
    assert sum(fusion["reasons"].values()) == fusion["left"]
    assert fusion["nodes_after"] < fusion["nodes_before"] == export["nodes"]
    # 64 tokens, 2 heads of 4 channels, read as 8: q, k, v and the output, two bytes each.
    moved = fusion["bytes_moved"]
    assert moved["plugin"] == fused * 64 * 2 * 8 * 4 * 2
    assert moved["separate"] > moved["mha"] > moved["plugin"]
    assert fusion["peak_mib"] > fusion["file_mib"] > 0

    assert simplify_graph(path, TINY)["nodes_before"] == export["nodes"]
    engines = compare_engines(path, TINY, None)
    assert engines["error"] < 1e-5
    assert engines["same"] is False
    timed = compare_engines(path, TINY, 0.01)
    low, high = timed["ratio_interval"]
    assert 0 < low <= timed["ratio"] <= high
    assert timed["latency"]["fused"]["num_samples"] >= 6


def test_an_export_is_kept_while_model_and_tools_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def export(model: PublicModel, path: Path) -> dict[str, Any]:
        path.write_bytes(b"graph")
        made.append(model.name)
        return {"exporter": "script"}

    monkeypatch.setattr(foreign_exports, "_export", export)
    path, found = exported(TINY, tmp_path)
    assert exported(TINY, tmp_path) == (path, found)
    assert made == ["tiny"]
    monkeypatch.setattr(foreign_exports, "_tools", lambda: {"torch": "99"})
    exported(TINY, tmp_path)
    path.unlink()
    exported(TINY, tmp_path)
    assert made == ["tiny"] * 3


def test_what_fails_is_told_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measure_model(BROKEN, tmp_path, None)
    assert result["failed"].startswith("export: RuntimeError: no exporter: dynamo: AttributeError")
    assert "script: AttributeError" in result["failed"]
    assert describe(result).startswith("failed: export")

    monkeypatch.setattr(bench_foreign_models, "alone", lambda step, *given: step(*given))
    monkeypatch.setattr(bench_foreign_models, "simplify_graph", lambda *_: 1 / 0)
    result = measure_model(TINY, tmp_path, None)
    assert result["failed"] == "simplification: ZeroDivisionError: division by zero"
    assert result["fusion"]["found"] == 2


def test_windows_are_named() -> None:
    def named(*groups: Mapping[str, Any]) -> str:
        return windows_of({"groups": groups})

    block = {"mode": "block", "window": [7, 7], "shift": [0, 0]}
    assert named(block) == "7x7"
    assert named({**block, "shift": [0, 3]}) == "7x7 shifted"
    grid = {"mode": "grid", "window": [0, 8], "shift": [0, 0]}
    assert named(block, grid) == "7x7, grid allx8"


# --- the page --------------------------------------------------------------------------------


def row(name: str, timed: bool = False, **result: Any) -> dict[str, Any]:
    machine = {"cpu_model": "a processor", "usable_cores": 2}
    return {
        "case": case_of(name, 1.0 if timed else None),
        "result": json.loads(json.dumps(result)),
        "date": "2026-11-23",
        "commit": "abc",
        "environment": machine,
        "tools": {"onnxruntime": "1.2"},
    }


def results(fused: int, left: int, ratio: tuple[float, float, float] | None) -> dict[str, Any]:
    engines: dict[str, Any] = {"error": 2e-6, "same": not fused}
    if ratio:
        engines |= {
            "ratio": ratio[1],
            "ratio_interval": [ratio[0], ratio[2]],
            "latency": {"as written": {"p50_ms": 3.0}, "fused": {"p50_ms": 2.0}},
            "threads": 2,
        }
    return {
        "export": {"exporter": "script", "trouble": ["dynamo: no | way"]},
        "fusion": {
            "found": fused + left,
            "fused": fused,
            "windows": {"7x7": fused} if fused else {},
            "reasons": {"it is of all to all": left} if left else {},
            "nodes_before": 100,
            "nodes_after": 40,
            "seconds": 1.25,
            "peak_mib": 512.0,
            "bytes_moved": {"plugin": 10**6 * fused, "mha": 5 * 10**6, "separate": 9 * 10**6},
        },
        "simplification": {"nodes_after": 80},
        "engines": engines,
    }


def test_the_newest_row_of_a_model_counts_in_the_order_of_the_list(refresh: ModuleType) -> None:
    rows = [row("tv-swin-t", n=1), row("hf-swin-t", n=2), row("tv-swin-t", n=3), row("gone", n=4)]
    newest = refresh.newest(rows)
    assert list(newest) == ["hf-swin-t", "tv-swin-t"]
    assert newest["tv-swin-t"]["result"]["n"] == 3


def test_tables_have_a_line_for_each_model(refresh: ModuleType) -> None:
    rows = refresh.newest(
        [
            row("hf-swin-t", True, **results(12, 0, (1.4, 1.5, 1.6))),
            row("hf-swin-s", True, **results(24, 0, (0.7, 0.8, 0.9))),
            row("hf-vit-b", True, **results(0, 12, None)),
            row("timm-nest-t", failed="export: it broke"),
        ]
    )
    fusion = refresh.fusion_table(rows).splitlines()
    assert fusion[2] == (
        "| `hf-swin-t` | 224x224 | 7x7 (12) | 12 of 12 | 100 | 80 | 40 | 2e-06 | 1.2 | 0.50 |"
    )
    assert "| `timm-nest-t` | 224x224 | export: it broke |" in fusion[4]
    assert {line.count("|") for line in fusion} == {11}

    left = refresh.left_table(rows).splitlines()
    assert left[2:] == ["| `hf-vit-b` | 12 | it is of all to all |"]

    latency = refresh.latency_table(rows).splitlines()
    assert latency[2] == "| `hf-swin-t` | 3.0 | 2.0 | 1.50 (1.40 to 1.60) | 2 |"
    assert len(latency) == 4

    export = refresh.export_table(rows).splitlines()
    assert export[2].endswith("| TorchScript | dynamo: no \\| way |")
    assert export[4].endswith("| none | export: it broke |")

    summary = refresh.summary(rows, rows)
    assert "4 models, 48 attentions; 36 of them fused, in 2 models." in summary
    assert "1 of 2 models with fused attention are surely faster" in summary
    assert "surely slower: `hf-swin-s`" in summary
    assert "Failed: `timm-nest-t`" in summary


def test_reasons_that_differ_in_names_alone_are_one(refresh: ModuleType) -> None:
    reasons = {"data changes node_7": 1, "too many: 12": 2, "data changes node_9": 3}
    assert refresh.alike(reasons) == {"data changes …": 4, "too many: 12": 2}


def test_saved_bytes_become_time_at_the_bandwidth_that_is_reached(refresh: ModuleType) -> None:
    rows = refresh.newest(
        [row("hf-swin-t", **results(1, 0, None)), row("hf-vit-b", **results(0, 12, None))]
    )
    (line,) = refresh.bytes_table(rows).splitlines()[2:]
    assert line.startswith("| `hf-swin-t` | 1.0 | 5.0 | 9.0 |")
    # 4 MB and 8 MB, at 85 % of 204.8 GB/s.
    assert "| 0.02 to 0.05 |" in line
    assert refresh.least_ms(174_080_000, refresh.AGX_ORIN) == pytest.approx(1.0)


def test_the_page_has_a_block_for_each_table(
    refresh: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "models.md"
    page.write_text(PAGE.read_text())
    monkeypatch.setattr(refresh, "PAGE", page)
    monkeypatch.setattr(refresh, "past_rows", lambda name: [])
    refresh.main()
    assert page.read_text().count("Not measured yet.") == 6
    monkeypatch.setattr(
        refresh, "past_rows", lambda name: [row("hf-swin-t", **results(1, 0, None))]
    )
    refresh.main()
    assert page.read_text().count("Not measured yet.") == 1  # the latencies
    assert "a processor, 2 cores; ONNX Runtime 1.2, commit abc." in page.read_text()
