"""A kernel or plugin library against a graph: its attention nodes, and what they should compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeattn.errors import GraphError
from edgeattn.graph.files import load_graph
from edgeattn.graph.names import name_nodes
from edgeattn.graph.op import OP_DOMAIN, OP_TYPE, attention_nodes, make_attention_node, spec_of_node
from edgeattn.graph.passes.pad_heads import PaddedGraph, pad_heads
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.verify import run_graph
from edgeattn.plugin.check import Finding, LibraryCheck, PluginNode, check_library
from edgeattn.plugin.driver import local_architectures
from edgeattn.plugin.elf import read_library
from edgeattn.plugin.trial import Trial
from edgeattn.spec import AttentionSpec, HeadGroup, Mode

_TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT8: "int8",
}
# Tokens on an axis of a trial: two windows and a rest, and not more than the reference can bear.
_MAX_TRIAL_TOKENS = 40


def check_plugin(library: Path, graph: Path | None = None, *, load: bool = True) -> LibraryCheck:
    """Check a library, and the attention nodes of a graph against it.

    Nodes are looked at as a build for the plugin writes them: with heads padded to what it takes.
    Where there is a GPU, or the library is the emulator, attentions run in it too, the graph's or a
    few that use every part of the operator; the results are compared with ONNX Runtime's.

    Args:
        library: `libedgeattn_plugin.so`, `libedgeattn_kernels.so` or the emulator.
        graph: An ONNX graph; none to look at the library alone.
        load: Whether the library's code may run.

    Raises:
        ArtifactError: If a file is missing.
        PluginError: If the library is no shared library, or none of edgeattn.
        GraphError: If the graph cannot be read, or holds no attention node.
        MissingDependencyError: If pyelftools is not installed.
    """
    padded = _with_padded_heads(load_graph(graph)) if graph else None
    nodes = plugin_nodes(padded.model) if padded else []
    if graph and not nodes:
        raise GraphError(f"{graph} holds no attention node", "was it exported with --portable?")
    info = read_library(library).build_info or {}
    can_run = load and (info.get("kind") == "emulator" or bool(local_architectures()))
    trials = make_trials(nodes or _SELF_TEST) if can_run else []
    checked = check_library(library, nodes, trials, load=load)
    notes = padded.padded.values() if padded else ()
    heads = [Finding(f"heads of {each.node}", "note", str(each)) for each in notes]
    return replace(checked, findings=(*checked.findings, *heads))


def _with_padded_heads(model: onnx.ModelProto) -> PaddedGraph:
    name_nodes(model.graph)
    try:
        return pad_heads(model)
    except GraphError:  # of a malformed node, which is to be listed beside the others
        return PaddedGraph(model, {}, ())


def plugin_nodes(model: onnx.ModelProto) -> list[PluginNode]:
    """List the attention nodes of a graph as a library sees them, malformed ones too."""
    specs: dict[str, AttentionSpec] = {}
    errors: dict[str, str] = {}
    for node in attention_nodes(model):
        try:
            specs[node.output[0]] = spec_of_node(node)
        except GraphError as err:
            errors[node.output[0]] = err.message
    sound = onnx.ModelProto()
    sound.CopyFrom(model)
    del sound.graph.node[:]
    sound.graph.node.extend(n for n in model.graph.node if not {*n.output} & errors.keys())
    types = infer_types(sound)
    nodes = []
    for node in attention_nodes(model):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        spec = specs.get(node.output[0])
        in_type = out_type = ""
        if spec and node.input[0] in types:
            in_type = out_type = _TYPE_NAMES.get(types[node.input[0]].element, "")
        if spec and in_type == "int8":
            out_type = "int8" if spec.out_quant_scale else "float16"
        nodes.append(
            PluginNode(
                node.name or node.output[0],
                node.op_type,
                attributes.get("plugin_version", b"1").decode(),
                attributes.get("plugin_namespace", b"").decode(),
                spec,
                errors.get(node.output[0], ""),
                in_type,
                out_type,
            )
        )
    return nodes


def make_trials(nodes: Sequence[PluginNode]) -> list[Trial]:
    """Draw inputs for each kind of node, and compute what should come out.

    Args:
        nodes: Nodes; of those that compute the same, one is tried.
    """
    distinct = {(node.spec, node.in_type): node for node in nodes if node.spec and node.in_type}
    return [_make_trial(spec, node) for (spec, _), node in distinct.items() if spec]


def _make_trial(spec: AttentionSpec, node: PluginNode) -> Trial:
    rng = np.random.default_rng(0)
    height, width = _trial_size(spec)
    values = rng.standard_normal((1, height, width, spec.qkv_channels)).astype(np.float32)
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in spec.input_shapes().items()
    }
    if "logit_scale" in tensors:
        tensors["logit_scale"] = np.exp(tensors["logit_scale"])
    if node.in_type == "int8":
        steps = np.rint(values / np.float32(spec.qkv_quant_scale))
        qkv = reference = np.clip(steps, -128, 127).astype(np.int8)
    else:
        qkv = values.astype(helper.tensor_dtype_to_np_dtype(_element(node.in_type)))
        reference = qkv.astype(np.float32)
    graph = _single_node_graph(spec, node.in_type == "int8", node.out_type == "int8")
    expected = run_graph(graph, {"qkv": reference, **tensors})[0].astype(np.float32)
    return Trial(node.name, spec, node.in_type, node.out_type, {"qkv": qkv, **tensors}, expected)


def _trial_size(spec: AttentionSpec) -> tuple[int, int]:
    """Choose a map of two windows and a rest; a sequence where there are only windows of one."""
    sizes = []
    for axis in (0, 1):
        spans = [g.window_size[axis] * g.dilation[axis] or 7 for g in spec.head_groups]
        is_flat = all(g.window_size[axis] == 1 or g.causal for g in spec.head_groups)
        sizes.append(1 if axis == 0 and is_flat else min(2 * max(spans) + 3, _MAX_TRIAL_TOKENS))
    return sizes[0], sizes[1]


def _single_node_graph(spec: AttentionSpec, int8_in: bool, int8_out: bool) -> onnx.ModelProto:
    element = TensorProto.INT8 if int8_in else TensorProto.FLOAT
    out_element = TensorProto.INT8 if int8_out else TensorProto.FLOAT
    shapes: dict[str, tuple[int | str, ...]] = {"qkv": ("B", "H", "W", spec.qkv_channels)}
    inputs = [helper.make_tensor_value_info("qkv", element, shapes["qkv"])]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in spec.input_shapes().items()
    ]
    out = helper.make_tensor_value_info("out", out_element, ("B", "H", "W", spec.out_channels))
    node = make_attention_node(spec, spec.input_names, "out", "attention")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, 1)]
    graph = helper.make_graph([node], "trial", inputs, [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _element(type_name: str) -> int:
    return next(element for element, name in _TYPE_NAMES.items() if name == type_name)


def _named(name: str, spec: AttentionSpec, in_type: str, out_type: str = "") -> PluginNode:
    return PluginNode(name, OP_TYPE, "1", "", spec, "", in_type, out_type or in_type)


def _groups(mode: Mode = "block", shift: bool = False) -> tuple[HeadGroup, ...]:
    return tuple(
        HeadGroup(2, (window, window), (shift * (window // 2),) * 2, 2 * index, mode)
        for index, window in enumerate((4, 7, 12))
    )


_BIASED = AttentionSpec(24, 6, _groups(shift=True), has_bias=True)
_PADDED = AttentionSpec(32, 6, _groups(shift=True), mask_value=-100.0, pad_mode="bias_kv")
_COSINE = AttentionSpec(64, 6, _groups("grid"), qkv_layout="H3D", qk_mode="cosine")
_SLIDING = AttentionSpec(32, 6, _groups("neighborhood"), has_bias=True)
_INT8 = AttentionSpec(32, 6, _groups(), has_bias=True, qkv_quant_scale=0.03, out_quant_scale=0.02)
_INT8_IN = AttentionSpec(64, 6, _groups(), qkv_quant_scale=0.03)

# What a library is tried on when no graph is given: every mode, every type, both pad modes.
_SELF_TEST = (
    _named("FP32 shifted windows", _BIASED, "float32"),
    _named("FP16 windows with attending padding", _PADDED, "float16"),
    _named("BF16 grids with cosine attention", _COSINE, "bfloat16"),
    _named("FP16 neighborhoods", _SLIDING, "float16"),
    _named("INT8 windows", _INT8, "int8"),
    _named("INT8 windows with FP16 output", _INT8_IN, "int8", "float16"),
)
