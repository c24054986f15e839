"""PyTorch's exporter with our operator in it: what it writes, and what it says when it cannot."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgeattn.errors import GraphError, MissingDependencyError
from edgeattn.graph import torch_export
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.torch_export import onnx_from_torch, require
from edgeattn.graph.verify import run_graph
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec
from tests import oracle
from tests.cases import NAMED_CASES, Case
from tests.tolerances import assert_close

NAMES = ("bias_table", "pad_kv", "logit_scale")
# Each of the eight ways in which the small inputs may be there or not, in all modes and layouts.
CASES = {
    "none": NAMED_CASES["packed_by_head"],
    "bias": NAMED_CASES["grid_masked"],
    "pad": NAMED_CASES["packed_by_head_padded"],
    "bias and pad": NAMED_CASES["odd_map_bias_kv_roll_then_pad"],
    "scale": NAMED_CASES["cosine_of_neighbors"],
    "pad and scale": None,
    "bias and scale": None,
    "bias, pad and scale": NAMED_CASES["cosine_padded"],
}


class Operator(nn.Module):
    """One call of the operator, its small inputs as weights."""

    def __init__(self, case: Case, dtype: str = "float32") -> None:
        super().__init__()
        self.spec = case.spec
        tensors = {n: torch.from_numpy(t) for n, t in case.tensors(dtype).items()}
        self.example = tensors.pop("qkv")
        self.small = nn.ParameterDict(tensors)

    def forward(self, qkv: Tensor) -> Tensor:
        small = [self.small.get(name, None) for name in NAMES]
        return multi_scale_window_attention(qkv, self.spec, *small)


def traced(model: nn.Module, *examples: Tensor, **options: Any) -> torch_export.Traced:
    defaults: dict[str, Any] = {
        "input_names": [f"x{i}" for i in range(len(examples))],
        "output_names": ["y"],
        "dynamic_axes": [{} for _ in examples],
        "opset": 20,
    }
    return onnx_from_torch(model.eval(), examples, **defaults | options)


def _with(case: Case, **changes: Any) -> Case:
    values = {name: getattr(case.spec, name) for name in AttentionSpec.__dataclass_fields__}
    return Case(AttentionSpec(**values | changes), case.height, case.width, case.batch)


@pytest.mark.parametrize("name", CASES)
def test_the_operator_becomes_one_node_that_computes_what_the_oracle_says(name: str) -> None:
    padded = NAMED_CASES["cosine_padded"]
    case = CASES[name] or _with(padded, **{"has_bias": name[0] == "b"} | (
        {"pad_mode": "mask"} if name == "bias and scale" else {}
    ))  # fmt: skip
    model = Operator(case)
    graph = traced(model, model.example).graph
    (node,) = attention_nodes(graph)
    assert spec_of_node(node) == case.spec
    assert [a.name for a in node.attribute][:-2] == list(ATTRIBUTE_KINDS)
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    given = dict(zip(case.spec.input_names[1:], node.input[1:], strict=True))
    for small, tensor in given.items():
        np.testing.assert_array_equal(weights[tensor], model.small[small].detach())
    tensors = {n: t.astype("float64") for n, t in case.tensors("float32").items()}
    (actual,) = run_graph(graph, {"x0": model.example.numpy()})
    assert_close(actual, oracle.attention(case.spec, **tensors), "attention", "float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_and_the_table_float(dtype: torch.dtype) -> None:
    model = Operator(NAMED_CASES["grid_masked"])
    graph = traced(model, model.example.to(dtype)).graph
    element = {torch.float16: onnx.TensorProto.FLOAT16, torch.bfloat16: onnx.TensorProto.BFLOAT16}
    assert graph.graph.input[0].type.tensor_type.elem_type == element[dtype]
    assert graph.graph.output[0].type.tensor_type.elem_type == element[dtype]
    assert graph.graph.initializer[0].data_type == onnx.TensorProto.FLOAT


def test_the_operator_may_be_called_through_torch_ops_alone() -> None:
    case = NAMED_CASES["packed_by_head"]

    class Bare(nn.Module):
        def forward(self, qkv: Tensor) -> Tensor:
            operator = torch.ops.edgeattn.multi_scale_window_attention
            return operator(qkv, None, None, None, *case.spec.to_attributes().values())

    graph = traced(Bare(), Operator(case).example).graph
    assert spec_of_node(attention_nodes(graph)[0]) == case.spec


@pytest.mark.parametrize("opset", [17, 24])
def test_an_opset_out_of_range_is_refused_before_tracing(opset: int) -> None:
    class Untouched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pytest.fail("traced")

    with pytest.raises(GraphError, match=f"opset {opset} cannot be exported; expected 18 to 23"):
        traced(Untouched(), torch.zeros(1), opset=opset)


def test_an_opset_that_the_exporter_did_not_write_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    export = torch.onnx.export

    def stubborn(*arguments: Any, **options: Any) -> Any:
        # As PyTorch does at 17: it writes 18 and says nothing.
        return export(*arguments, **options | {"opset_version": 18})

    monkeypatch.setattr(torch.onnx, "export", stubborn)
    with pytest.raises(GraphError, match="for opset 20, the exporter wrote opset 18") as error:
        traced(nn.Linear(2, 2), torch.zeros(1, 2))
    assert error.value.hint == "use --opset 18"


class Conditional(nn.Module):
    """Takes another way above some sizes."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if 5 < x.shape[1] <= 9 else x * 3


@pytest.mark.parametrize(("length", "outside"), [(7, (5, 10)), (4, (6,)), (20, (9,))])
def test_the_sizes_that_a_decision_was_taken_for_are_known(
    length: int, outside: tuple[int, ...]
) -> None:
    axes = [{0: "batch", 1: "length"}]
    limits = traced(Conditional(), torch.zeros(2, length), dynamic_axes=axes).limits
    assert limits == {"batch": (), "length": outside}


def test_a_static_trace_has_no_limits() -> None:
    assert traced(Conditional(), torch.zeros(2, 7)).limits == {}


def test_an_axis_that_the_exporter_silently_fixed_is_told() -> None:
    value = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_model(helper.make_graph([], "g", [value], []))
    torch_export._check_dynamic_axes(graph, [{0: "batch"}])
    with pytest.raises(GraphError, match=r"axis 1 \(length\) of input image did not stay dynamic"):
        torch_export._check_dynamic_axes(graph, [{0: "batch", 1: "length"}])


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"exporting needs {package}") as error:
        require(package)
    assert error.value.hint == 'pip install "edgeattn[export]"'
