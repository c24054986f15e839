"""From a torch module to an ONNX graph, through PyTorch's own exporter (torch.export).

The operator becomes one node; everything else is the exporter's translation.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

from edgeattn.errors import GraphError, MissingDependencyError, first_line, root_of
from edgeattn.graph.op import OP_DOMAIN, OP_TYPE, OP_VERSION, make_attention_node, spec_of_node
from edgeattn.graph.quiet import quiet
from edgeattn.spec import ATTRIBUTE_KINDS

if TYPE_CHECKING:
    from torch import Tensor, nn

MIN_OPSET, MAX_OPSET = 18, 23

# How the tracer says that a dynamic axis turned out to have one size only.
_FIXED_AXIS = re.compile(r"static shape of (\d+) for dimension inputs\['?(.+?)'?\]\.shape\[(\d+)\]")


@dataclass(frozen=True)
class Traced:
    """What the exporter made of a module.

    Attributes:
        graph: The graph.
        limits: By name of a dynamic axis, the sizes just outside those that the trace holds for;
            the module may refuse them, or do something else there than the graph does.
    """

    graph: onnx.ModelProto
    limits: dict[str, tuple[int, ...]]


def onnx_from_torch(
    model: nn.Module,
    examples: Sequence[Tensor],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Sequence[dict[int, str]],
    opset: int,
) -> Traced:
    """Trace a module and translate it.

    Args:
        model: In eval mode.
        examples: One tensor per input.
        input_names: Names of the graph's inputs.
        output_names: Names of the graph's outputs.
        dynamic_axes: Per input, the names of the axes that stay dynamic.
        opset: ONNX opset, 18 to 23.

    Raises:
        GraphError: If the module cannot be traced, an axis did not stay dynamic, or the exporter
            wrote another opset than the one asked for.
        MissingDependencyError: If onnxscript is not installed.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise GraphError(
            f"opset {opset} cannot be exported; expected {MIN_OPSET} to {MAX_OPSET}",
            "opset 20 keeps GELU as one node",
        )
    require("torch")
    require("onnxscript")
    import torch

    # Defines the operator, which the model may use through torch.ops alone.
    importlib.import_module("edgeattn.models.operator")
    operator = torch.ops.edgeattn.multi_scale_window_attention.default
    try:
        with quiet():
            program: Any = torch.onnx.export(
                model,
                tuple(examples),
                dynamo=True,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=_by_argument(model, dynamic_axes) if any(dynamic_axes) else None,
                custom_translation_table={operator: _translate_attention},
                verbose=False,
            )
    except Exception as err:  # the exporter raises its own types and whatever the model raises
        if fixed := _FIXED_AXIS.search(str(root_of(err))):
            size, argument, axis = fixed.groups()
            raise _fixed_axis(f"{axis} of forward's {argument}", size) from err
        raise GraphError(
            f"the model cannot be traced: {_reason(err)}",
            "the model must run through torch.export; give --input sizes that it accepts",
        ) from err
    graph: onnx.ModelProto = program.model_proto
    _canonicalise_attention(graph)
    _check_opset(graph, opset)
    _check_dynamic_axes(graph, dynamic_axes)
    return Traced(graph, _limits(program, dynamic_axes))


def _by_argument(model: nn.Module, dynamic_axes: Sequence[dict[int, str]]) -> dict[str, Any]:
    """Give the axes the structure of `forward`'s arguments: those of `*args` stand in a tuple."""
    return dict(inspect.signature(model.forward).bind(*dynamic_axes).arguments)


def require(package: str) -> None:
    """Import a package that exporting needs.

    Raises:
        MissingDependencyError: If it cannot be imported; the hint has the command to install it.
    """
    try:
        importlib.import_module(package)
    except ImportError as err:
        raise MissingDependencyError(
            f"exporting needs {package}, which cannot be imported: {err}",
            'pip install "edgeattn[export]"',
        ) from err


def _translate_attention(
    qkv: Any,
    bias_table: Any = None,
    pad_kv: Any = None,
    logit_scale: Any = None,
    *attributes: Any,
) -> Any:
    """Give the exporter the node for a call of the torch operator."""
    from onnxscript import values

    operator = values.Op(values.Opset(OP_DOMAIN, OP_VERSION), OP_TYPE, _schema())
    inputs = [x for x in (qkv, bias_table, pad_kv, logit_scale) if x is not None]
    return operator(*inputs, **dict(zip(ATTRIBUTE_KINDS, attributes, strict=True)))


def _schema() -> Any:
    """Describe the node to onnxscript, which checks what it writes."""
    schema = onnx.defs.OpSchema
    kinds = {
        "int": schema.AttrType.INT,
        "float": schema.AttrType.FLOAT,
        "int[]": schema.AttrType.INTS,
    }
    types = [f"tensor({t})" for t in ("float", "float16", "bfloat16", "double", "int8")]
    return schema(
        OP_TYPE,
        OP_DOMAIN,
        OP_VERSION,
        inputs=[
            schema.FormalParameter("qkv", "T"),
            # Which these are depends on the attributes; those that are there come first.
            *(
                schema.FormalParameter(
                    f"tensor_{i}",
                    "tensor(float)",
                    param_option=schema.FormalParameterOption.Optional,
                )
                for i in range(3)
            ),
        ],
        outputs=[schema.FormalParameter("output", "T")],
        type_constraints=[("T", types, "type of activations")],
        attributes=[
            schema.Attribute(name, kinds[kind], "", required=False)
            for name, kind in ATTRIBUTE_KINDS.items()
        ],
    )


def _canonicalise_attention(graph: onnx.ModelProto) -> None:
    """Write each attention node with all its attributes in their order, and the plugin's name."""
    for node in graph.graph.node:
        if node.op_type == OP_TYPE:
            spec = spec_of_node(node)
            canonical = make_attention_node(spec, node.input, node.output[0], node.name)
            canonical.metadata_props.extend(node.metadata_props)
            node.CopyFrom(canonical)


def _check_opset(graph: onnx.ModelProto, opset: int) -> None:
    # Asked for 17, the exporter writes 18 and says nothing.
    written = {entry.domain: entry.version for entry in graph.opset_import}[""]
    if written != opset:
        raise GraphError(
            f"asked for opset {opset}, the exporter wrote opset {written}", f"use --opset {written}"
        )


def _check_dynamic_axes(graph: onnx.ModelProto, dynamic_axes: Sequence[dict[int, str]]) -> None:
    for value, axes in zip(graph.graph.input, dynamic_axes, strict=True):
        for axis, name in axes.items():
            dim = value.type.tensor_type.shape.dim[axis]
            if not dim.dim_param:
                raise _fixed_axis(f"{axis} ({name}) of input {value.name}", dim.dim_value)


def _fixed_axis(axis: str, size: int | str) -> GraphError:
    return GraphError(
        f"axis {axis} did not stay dynamic: the model fixes it at {size}",
        "export it static, or avoid Python conditions on sizes in forward()",
    )


def _limits(program: Any, dynamic_axes: Sequence[dict[int, str]]) -> dict[str, tuple[int, ...]]:
    """Find the sizes just outside those that the trace holds for, by dynamic axis.

    A Python condition on a size is decided while tracing, and the sizes that would decide it
    otherwise fall outside the range that the tracer notes.
    """
    traced = program.exported_program
    inputs = {node.name: node for node in traced.graph.nodes if node.op == "placeholder"}
    limits: dict[str, tuple[int, ...]] = {}
    for name, axes in zip(traced.graph_signature.user_inputs, dynamic_axes, strict=True):
        for axis, axis_name in axes.items():
            size = inputs[name].meta["val"].shape[axis]
            held = None if isinstance(size, int) else traced.range_constraints.get(size.node.expr)
            if held is not None:
                bounds = ((held.lower, -1), (held.upper, 1))  # of sympy, the upper often infinite
                outside = (int(bound) + step for bound, step in bounds if bound.is_Integer)
                limits[axis_name] = tuple(size for size in outside if size > 0)
    return limits


def _reason(err: BaseException) -> str:
    if type(root_of(err)).__name__ == "GuardOnDataDependentSymNode":
        return "forward() makes a Python decision on the values of a tensor"
    return first_line(err)
