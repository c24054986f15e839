"""Window attention that a graph writes out, fused on the way to an engine."""

from __future__ import annotations

from typing import Any

import onnx

from edgeattn.engine.cpu_int8 import is_quantized
from edgeattn.graph.attention_products import AttentionProducts
from edgeattn.graph.constants import Constants
from edgeattn.graph.fuse_report import fuse_report
from edgeattn.graph.fusion.found import GlobalChoice
from edgeattn.graph.nodes import is_standard
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention

Report = dict[str, Any]

_QUANTIZED = "the graph is quantized; fuse the float graph, then calibrate and quantize that"
_HAS_TABLE = (
    "the table belongs to the graph as it is written; edgeattn fuse it, calibrate the fused graph "
    "and build that one"
)


def fuse_for_build(
    model: onnx.ModelProto,
    *,
    has_table: bool = False,
    global_attention: bool | GlobalChoice = False,
) -> tuple[onnx.ModelProto, Report]:
    """Fuse the window attention of a graph that is to become an engine.

    A graph with attention nodes is left as its author wrote it. So is a quantized one, whose scales
    were found for the tensors that it has.

    Args:
        model: The graph; not changed.
        has_table: A calibration table of this graph was given; no other graph goes with it.
        global_attention: As `fuse_window_attention` takes it.

    Returns:
        The graph to go on with, and what `fuse_report` tells; where the graph was not to be fused
        `skipped` says why, and nothing is told of a graph without attention that is written out.
    """
    # First what costs nothing: most graphs without attention have no softmax either.
    may_attend = any(is_standard(node, "Softmax", "Attention") for node in model.graph.node)
    if not may_attend or attention_nodes(model):
        return model, {}
    if has_table or is_quantized(model):
        found = len(AttentionProducts(model.graph, Constants(model)).found)
        why = _HAS_TABLE if has_table else _QUANTIZED
        return model, {"found": found, "fused": 0, "left": found, "skipped": why} if found else {}
    fusion = fuse_window_attention(model, global_attention=global_attention)
    return fusion.model, fuse_report(fusion) if fusion.attentions else {}
