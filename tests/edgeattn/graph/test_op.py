"""The attention node: every spec becomes one and comes back, and malformed ones are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import AttributeProto, helper

from edgeattn.errors import GraphError, SpecError
from edgeattn.graph.op import (
    OP_DOMAIN,
    OP_TYPE,
    attention_nodes,
    is_attention,
    make_attention_node,
    spec_of_node,
)
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec, HeadGroup
from tests.cases import specs

SPEC = AttentionSpec(
    4, 3, (HeadGroup(2, 4, 2), HeadGroup(1, 3, head_offset=2)), has_bias=True, qk_mode="cosine"
)


def node_of(spec: AttentionSpec = SPEC, **changes: Any) -> onnx.NodeProto:
    """Make a node, then replace attributes; `None` removes one."""
    node = make_attention_node(spec, spec.input_names, "out", "layer/attention")
    kept = [a for a in node.attribute if a.name not in changes]
    changed = [helper.make_attribute(k, v) for k, v in changes.items() if v is not None]
    del node.attribute[:]
    node.attribute.extend([*kept, *changed])
    return node


@given(specs())
def test_a_node_gives_its_spec_back(spec: AttentionSpec) -> None:
    # ONNX stores float32.
    spec = replace(spec, softmax_scale=float(np.float32(spec.softmax_scale)))
    node = make_attention_node(spec, spec.input_names, "out", "attention")
    assert spec_of_node(onnx.NodeProto.FromString(node.SerializeToString())) == spec


def test_a_node_carries_every_attribute_in_order_and_what_tensorrts_parser_looks_for() -> None:
    node = node_of()
    assert (node.op_type, node.domain, node.name) == (OP_TYPE, OP_DOMAIN, "layer/attention")
    assert list(node.input) == ["qkv", "bias_table", "logit_scale"]
    assert list(node.output) == ["out"]
    names = [a.name for a in node.attribute]
    assert names == [*ATTRIBUTE_KINDS, "plugin_version", "plugin_namespace"]
    types = {"int": AttributeProto.INT, "float": AttributeProto.FLOAT, "int[]": AttributeProto.INTS}
    assert [a.type for a in node.attribute][:-2] == [types[k] for k in ATTRIBUTE_KINDS.values()]
    plugin = {a.name: a.s for a in node.attribute[-2:]}
    assert plugin == {"plugin_version": b"1", "plugin_namespace": b""}


def test_only_a_node_of_both_the_type_and_the_domain_is_attention() -> None:
    foreign = helper.make_node(OP_TYPE, ["x"], ["y"], domain="com.example")
    other = helper.make_node("Softmax", ["x"], ["y"], domain=OP_DOMAIN)
    ours = node_of()
    assert [is_attention(n) for n in (foreign, other, ours)] == [False, False, True]
    graph = helper.make_graph([foreign, ours, other], "g", [], [])
    assert attention_nodes(helper.make_model(graph)) == [ours]


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        ["qkv"],
        ["qkv", "table"],
        ["qkv", "table", "scale", "more"],
        ["qkv", "", "scale"],  # ONNX leaves inputs out by empty names; here attributes say so
        ["qkv", "table", "scale", ""],
    ],
)
def test_inputs_that_the_attributes_do_not_call_for_are_refused(inputs: list[str]) -> None:
    with pytest.raises(SpecError, match="expected 3: qkv, bias_table, logit_scale"):
        make_attention_node(SPEC, inputs, "out")
    node = node_of()
    del node.input[:]
    node.input.extend(inputs)
    with pytest.raises(GraphError, match="attention node layer/attention: it has the inputs"):
        spec_of_node(node)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": None}, "no attribute head_dim"),
        ({"group_window": None}, "no attribute group_window"),
        ({"head_dim": 4.0}, "attribute head_dim is 4.0; expected an integer"),
        ({"head_dim": "4"}, "attribute head_dim is b'4'; expected an integer"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"softmax_scale": "big"}, "softmax_scale is b'big'; expected a number"),
        ({"group_window": 4}, "group_window is 4; expected a list of integers"),
        ({"group_window": [4.0] * 4}, "expected a list of integers"),
        ({"group_window": [4, 4, 3]}, "group_window has 3 entries; expected 4"),
        ({"group_shift": [4, 4, 0, 0]}, "shift_size .4, 4. is not below window_size .4, 4."),
        ({"group_mode": [0, 3]}, "group_mode is 3; expected 0 to 2"),
        ({"pad_mode": 2}, "pad_mode is 2; expected 0 to 1"),
        ({"mask_value": float("nan")}, "mask_value is nan"),
        ({"windows": 4}, "unknown attributes: windows"),
    ],
)
def test_a_malformed_attribute_is_refused_with_the_name_of_the_node(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(GraphError, match=f"attention node layer/attention: .*{message}"):
        spec_of_node(node_of(**changes))


def test_a_nameless_node_is_called_by_its_output() -> None:
    node = node_of(head_dim=None)
    node.name = ""
    with pytest.raises(GraphError, match="attention node out: "):
        spec_of_node(node)


@pytest.mark.parametrize("outputs", [[], ["out", "logits"]])
def test_a_node_has_one_output(outputs: list[str]) -> None:
    node = node_of()
    del node.output[:]
    node.output.extend(outputs)
    with pytest.raises(GraphError, match=f"it has {len(outputs)} outputs; expected 1"):
        spec_of_node(node)


def test_the_plugins_attributes_may_be_missing() -> None:
    assert spec_of_node(node_of(plugin_version=None, plugin_namespace=None)) == SPEC


def test_attributes_with_a_default_may_be_missing() -> None:
    node = node_of(mask_value=None, group_shift=[0] * 4, softmax_scale=None, group_causal=None)
    assert spec_of_node(node).mask_value == float("-inf")
