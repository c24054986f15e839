"""Attention that is one node of the ONNX standard is told of, and left."""

from __future__ import annotations

import onnx

from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention


def test_an_attention_node_of_the_standard_is_left_with_a_reason():
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 23]>
        g (float[1,2,9,4] q, float[1,2,9,4] k, float[1,2,9,4] v) => (float[1,2,9,4] y) {
            y = Attention(q, k, v)
        }"""
    )
    fusion = fuse_window_attention(model)
    assert fusion.model is model
    (left,) = fusion.attentions
    assert (left.name, left.fused) == ("y", False)
    assert "opset below 23" in left.reason
