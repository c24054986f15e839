"""Attention that is one node of the ONNX standard is told of, and left."""

from __future__ import annotations

import onnx
import pytest

from edgeattn.engine.fusing import fuse_for_build
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_an_attention_node_of_the_standard_is_left_with_a_reason(domain):
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["{domain}": 23]>
        g (float[1,2,9,4] q, float[1,2,9,4] k, float[1,2,9,4] v) => (float[1,2,9,4] y) {{
            y = Attention(q, k, v)
        }}"""
    )
    fusion = fuse_window_attention(model)
    assert fusion.model is model
    (left,) = fusion.attentions
    assert (left.name, left.fused) == ("y", False)
    assert "opset below 23" in left.reason
    report = fuse_for_build(model)[1]
    assert (report["found"], report["left"]) == (1, 1)
