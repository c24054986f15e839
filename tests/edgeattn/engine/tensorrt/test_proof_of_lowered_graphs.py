"""Graphs as they are really lowered, and engines that would compute them as asked, or not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgeattn.engine.tensorrt.attention_audit import audit_attention
from edgeattn.engine.tensorrt.inspector import parse_engine_info
from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt, lower_for_tensorrt
from edgeattn.engine.tensorrt.precision import (
    asked_precisions,
    check_required_precision,
    precision_shares,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.quantized_attention import input_of, layer, quantized

WAYS = ("plugin", "native", "attention")
GROUPS = (HeadGroup(2, (3, 3), (1, 1)), HeadGroup(2, (5, 5), head_offset=2))


def lowered(way: str, *, int8: bool, head_dim: int = 16) -> LoweredForTensorRt:
    """Lower attention of two head groups between two layers."""
    spec = AttentionSpec(head_dim, 4, GROUPS, has_bias=True)
    case = Case(spec, 9, 11, batch=2)
    model = layer(case)
    if int8:
        model, _ = quantized(model, input_of(case))
    return lower_for_tensorrt(model, TensorRtVersion(10, 16), way=way)


def printout(graph: LoweredForTensorRt, dtypes: dict[str, str]) -> str:
    """Write what an engine would tell that has one kernel for each attention and each layer.

    Args:
        graph: Its graph.
        dtypes: Type of each product.
    """
    words = {"int8": "Int8", "float16": "Half", "float32": "Float"}
    layers: list[dict[str, Any]] = []

    def add(name: str, layer_type: str, nodes: tuple[str, ...]) -> None:
        dtype = next(dtypes[node] for node in nodes if node in dtypes)
        tensor = {"Name": "t", "Dimensions": [4, 4], "Format/Datatype": words[dtype]}
        metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
        layer = {"Name": name, "LayerType": layer_type, "Metadata": metadata}
        layers.append(layer | {"Inputs": [tensor], "Outputs": [tensor]})

    held = set()
    for number, each in enumerate(graph.attention):
        held |= set(each.core)
        if each.way == "plugin":
            add(each.core[0], "PluginV3", each.core)
        else:
            add(f"_gemm_mha_v2_myl0_{number}", "kgen", each.nodes)
    for node in dtypes:
        if node not in held:
            add(f"{node}_myl0_0", "gemm", (node,))
    return json.dumps({"Layers": layers, "Bindings": ["x", "y"]})


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_an_engine_as_asked_leaves_nothing_to_tell(way, int8):
    graph = lowered(way, int8=int8)
    asked = asked_precisions(graph)
    info = parse_engine_info(printout(graph, asked))
    findings = audit_attention(graph.attention, info, asked)
    assert {each.verdict for each in findings} == {"plugin" if way == "plugin" else "fused"}
    assert len(findings) == (1 if way == "plugin" else 2)
    assert all(each.reasons == () for each in findings)
    shares = precision_shares(info, asked)
    assert (shares.changed, shares.unproven) == ((), ())
    check_required_precision(shares, "int8" if int8 else "fp32")


@pytest.mark.parametrize("way", WAYS)
def test_attention_that_the_source_has_in_int8_is_asked_for_in_int8_whatever_it_became(way):
    graph = lowered(way, int8=True)
    asked = asked_precisions(graph)
    assert set(asked.values()) == {"int8"}
    core = {node for each in graph.attention for node in each.core}
    built = {node: "float16" if node in core else dtype for node, dtype in asked.items()}
    shares = precision_shares(parse_engine_info(printout(graph, built)), asked)
    assert {each.node for each in shares.changed} == core & set(asked)
    with pytest.raises(BuildError, match="int8 was required"):
        check_required_precision(shares, "int8")


def test_int8_attention_of_a_size_that_tensorrt_does_not_fuse_is_no_silent_float():
    graph = lowered("native", int8=True, head_dim=20)
    assert all("20 channels" in " ".join(each.obstacles) for each in graph.attention)
    asked = asked_precisions(graph)
    products = {node for each in graph.attention for node in each.core} & set(asked)
    assert {asked[node] for node in products} == {"int8"}


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_in_float_asks_for_no_int8(way):
    assert set(asked_precisions(lowered(way, int8=False)).values()) == {"float32"}


@pytest.mark.parametrize("seed", range(5))
def test_each_product_that_went_astray_is_the_one_that_is_named(seed):
    graph = lowered("native", int8=True)
    asked = asked_precisions(graph)
    astray = np.random.default_rng(seed).choice(sorted(asked))
    layers = json.loads(printout(graph, asked))["Layers"]
    for each in layers:
        if f"[ONNX Layer: {astray}]" in each["Metadata"]:
            each["Inputs"][0]["Format/Datatype"] = "Half"
            held = [node for node in asked if f"[ONNX Layer: {node}]" in each["Metadata"]]
    text = json.dumps({"Layers": layers, "Bindings": []})
    shares = precision_shares(parse_engine_info(text), asked)
    assert [each.node for each in shares.changed] == [node for node in asked if node in held]
