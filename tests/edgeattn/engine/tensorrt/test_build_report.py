"""The build report, from printouts of the inspector to lines for people."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.tensorrt.build import TensorRtBuild
from edgeattn.engine.tensorrt.build_report import describe_report, make_build_report
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.options import ShapeProfile
from edgeattn.engine.tensorrt.precision import PrecisionShares, check_required_precision
from edgeattn.errors import BuildError
from edgeattn.graph.passes.pad_heads import PaddedHeads
from tests.tensorrt_printouts import (
    ATTENTION,
    HEAD,
    PROJ,
    QKV,
    changed,
    layer_of,
    text_of,
    window_block,
)

PROFILE = ShapeProfile(
    min={"x": (1, 56, 56, 96)}, opt={"x": (4, 56, 56, 96)}, max={"x": (8, 56, 56, 96)}
)


def built(inspector: str, *warnings: str) -> TensorRtBuild:
    log = CapturedLog()
    for warning in warnings:
        log.add("warning", warning)
    return TensorRtBuild(
        plan=Path("block.engine"),
        inspector=inspector,
        log=log,
        seconds=312.04,
        device_memory_bytes=58 << 20,
        plan_bytes=(34 << 20) + 100_000,
        timing_cache={"file": "orin.cache", "hits": 3},
        used_plugin_libraries=(Path("/opt/libedgeattn_trt.so"),),
    )


def report_of(inspector: str, *warnings: str, **changes: Any) -> dict[str, Any]:
    lowered = dataclasses.replace(window_block(), **changes)
    return make_build_report(built(inspector, *warnings), lowered, [PROFILE])


def test_an_engine_that_is_as_asked_is_told_in_few_lines():
    report = report_of(text_of("window_plugin_int8_10x"))
    assert describe_report(report) == [
        "TensorRT 10.3: 8 layers, built in 312 s; plan 34.1 MiB, device memory 58.0 MiB",
        "attention: 1 in our plugin",
        "precision: the graph asks for 1 product in float16, 3 products in int8, and so the engine "
        "computes them",
        "overhead: 2 reformats (1.7 MiB read and written), 1 kernel for moves and casts alone "
        "(1.1 MiB)",
    ]


def test_heads_that_were_padded_are_told_with_what_it_costs():
    padded = PaddedHeads(ATTENTION, 30, 32, ("input",))
    attention = [dataclasses.replace(each, padded=padded) for each in window_block().attention]
    report = report_of(text_of("window_plugin_int8_10x"), attention=tuple(attention))
    assert [finding["notes"] for finding in report["attention"]] == [[str(padded)]]
    assert f"  1 attention: {padded}" in describe_report(report)
    del report["attention"][0]["notes"]  # of engines that were built before heads were padded
    assert not any("padded" in line for line in describe_report(report))


def test_the_report_goes_into_the_manifest_and_back():
    report = report_of(text_of("window_plugin_int8_10x"))
    manifest = Manifest("engine", report=report)
    again = Manifest.from_dict(json.loads(json.dumps(manifest.to_dict())), "engine").report
    assert again == report
    assert describe_report(again) == describe_report(report)
    check_required_precision(PrecisionShares.from_dict(again["precision"]), "int8")
    assert report["profiles"] == [PROFILE.to_dict()]
    assert report["plugin_libraries"] == ["/opt/libedgeattn_trt.so"]
    assert report["timing_cache"] == {"file": "orin.cache", "hits": 3}
    assert report["device_memory_bytes"] == 58 << 20
    assert (report["asked"], report["attention_way"]) == ("int8+fp16", "plugin")
    assert report["inspector"] == {"schema": "10", "verbosity": "detailed", "fault": ""}


def regress(layers: list[dict[str, Any]]) -> None:
    """Plant three at once: a lost plugin, a product in float, twice the reformats."""
    plugin = layer_of(layers, ATTENTION)
    layers.remove(plugin)
    layers += [plugin | {"Name": name, "LayerType": "gemm"} for name in ("qk", "av")]
    layer_of(layers, PROJ)["TacticName"] = "sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize32x32x64"
    layer_of(layers, QKV).update(Metadata="")
    layers += [layer for layer in layers if layer["LayerType"] == "Reformat"]


def test_what_differs_is_told_by_name():
    report = report_of(changed("window_plugin_int8_10x", regress))
    _, *lines = describe_report(report)
    assert lines == [
        "attention: 1 not fused",
        f"  {ATTENTION}, not fused: it was to run in our plugin, and TensorRT computes it in 2 "
        "layers: qk, av",
        "precision: the graph asks for 1 product in float16, 3 products in int8; 1 changed, 1 not "
        "shown",
        f"  {PROJ} is int8 in the graph, float32 in layer /blocks_0/proj/MatMul_myl2_0",
        f"  {QKV} is int8 in the graph, not shown in the engine: no layer names it",
        "overhead: 4 reformats (3.4 MiB read and written), 1 kernel for moves and casts alone "
        "(1.1 MiB)",
    ]
    with pytest.raises(BuildError, match="int8 was required"):
        check_required_precision(PrecisionShares.from_dict(report["precision"]), "int8")


def test_attention_in_another_type_than_asked_is_told():
    def halve(layers):
        layer_of(layers, ATTENTION)["Inputs"][0]["Format/Datatype"] = "Row major linear FP16 format"

    (finding,) = report_of(changed("window_plugin_int8_10x", halve))["attention"]
    assert finding["reasons"] == ["the graph has it in int8, and it computes in float16"]


def test_attention_is_looked_for_in_black_boxes():
    box = f"{{ForeignNode[{QKV}...{PROJ}]}}"
    layers = [{"Name": box, "LayerType": "Myelin", "Metadata": ""}]
    (finding,) = report_of(json.dumps({"Layers": layers, "Bindings": []}))["attention"]
    assert finding["layers"] == [box]


def test_a_text_that_cannot_be_read_fails_no_build_and_no_guarantee_passes():
    report = report_of('{"Layers": [')
    lines = describe_report(report)
    assert lines[1].startswith(
        "nothing can be shown of this engine: this is not what TensorRT's engine inspector prints"
    )
    assert "attention: 1 not known" in lines
    assert report["inspector"]["verbosity"] == "none"
    with pytest.raises(BuildError, match="does not show the type of 3 of the 3"):
        check_required_precision(PrecisionShares.from_dict(report["precision"]), "int8")


def test_an_engine_of_names_only_is_told_to_be_one():
    lines = describe_report(report_of(text_of("names_only_10x")))
    assert "little can be shown of this engine: build with --profiling-verbosity detailed" in lines
    assert f"  {HEAD} is float16 in the graph, not shown in the engine: no layer names it" in lines


def test_faults_of_the_graph_and_warnings_of_tensorrt_are_told():
    warnings = [f"warning {i}\nsecond line" for i in range(25)]
    report = report_of(text_of("window_plugin_int8_10x"), *warnings, faults=("a: too new",))
    assert report["warning_count"] == 25
    assert len(report["warnings"]) == 20
    lines = describe_report(report)
    assert "the graph: a: too new" in lines
    assert "TensorRT warned 25 times, first: warning 0" in lines


def test_a_graph_without_attention_and_products_is_reported_too():
    lowered = window_block()
    model = type(lowered.model)()
    model.CopyFrom(lowered.model)
    del model.graph.node[:]
    report = report_of('{"Layers": [], "Bindings": []}', model=model, attention=())
    assert len(describe_report(report)) == 2  # of the engine, and that it shows little
    assert report["attention"] == []
