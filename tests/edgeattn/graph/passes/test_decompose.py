"""The standard form of the attention node against the float64 oracle, static and dynamic."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from edgeattn.graph.op import OP_DOMAIN, is_attention, make_attention_node
from edgeattn.graph.passes.decompose import decompose
from tests import oracle
from tests.cases import NAMED_CASES, Case, cases
from tests.tolerances import assert_close


def attention_model(case: Case, *, dynamic: bool, constants: bool = True) -> onnx.ModelProto:
    """Make a graph that holds one attention node; its small inputs as weights or as inputs."""
    tensors = case.tensors("float32")
    qkv = ["batch", "height", "width", case.spec.qkv_channels] if dynamic else tensors["qkv"].shape
    inputs = [helper.make_tensor_value_info("qkv", onnx.TensorProto.FLOAT, qkv)]
    weights = []
    for name in case.spec.input_names[1:]:
        if constants:
            weights.append(numpy_helper.from_array(tensors[name], name))
        else:
            shape = tensors[name].shape
            inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    output = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["b", "h", "w", "c"])
    node = make_attention_node(case.spec, case.spec.input_names, "out", "attention")
    graph = helper.make_graph([node], "attention", inputs, [output], weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model: onnx.ModelProto, tensors: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {name: t for name, t in tensors.items() if name in names})[0]


def check(case: Case, *, dynamic: bool, constants: bool = True) -> None:
    model = decompose(attention_model(case, dynamic=dynamic, constants=constants))
    assert not any(is_attention(node) for node in model.graph.node)
    onnx.checker.check_model(model)
    tensors = case.tensors("float32")
    expected = oracle.attention(case.spec, **{n: t.astype("float64") for n, t in tensors.items()})
    assert_close(run(model, tensors), expected, "attention", "float32")


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_standard_form_equals_the_oracle(case: Case, dynamic: bool) -> None:
    check(case, dynamic=dynamic)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_standard_form_equals_the_oracle_on_drawn_cases(case: Case) -> None:
    check(case, dynamic=case.height % 2 == 0)


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_tables_may_be_computed_in_the_graph(case: Case) -> None:
    if len(case.spec.input_names) == 1:
        return
    check(case, dynamic=False, constants=False)
