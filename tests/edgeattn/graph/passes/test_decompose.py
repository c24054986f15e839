"""The standard form of the attention node against the float64 oracle, static and dynamic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from edgeattn.graph.op import OP_DOMAIN, is_attention, make_attention_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case, cases
from tests.int8_oracle import exact_attention, quantized_case, to_steps
from tests.tolerances import TOLERANCES, assert_close


def attention_model(case: Case, *, dynamic: bool, constants: bool = True) -> onnx.ModelProto:
    """Make a graph that holds one attention node; its small inputs as weights or as inputs."""
    tensors = case.tensors("float32")
    return model_of(case.spec, tensors, dynamic=dynamic, constants=constants)


def model_of(
    spec: AttentionSpec, tensors: dict[str, np.ndarray], *, dynamic: bool, constants: bool = True
) -> onnx.ModelProto:
    qkv = ["batch", "height", "width", spec.qkv_channels] if dynamic else tensors["qkv"].shape
    qkv_type = helper.np_dtype_to_tensor_dtype(tensors["qkv"].dtype)
    out_type = onnx.TensorProto.INT8 if spec.out_quant_scale else onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("qkv", qkv_type, qkv)]
    weights = []
    for name in spec.input_names[1:]:
        if constants:
            weights.append(numpy_helper.from_array(tensors[name], name))
        else:
            shape = tensors[name].shape
            inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    output = helper.make_tensor_value_info("out", out_type, ["b", "h", "w", "c"])
    node = make_attention_node(spec, spec.input_names, "out", "attention")
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


# --- the INT8 form --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_the_int8_form_rounds_padding_and_output_and_nothing_else(
    case: Case, dynamic: bool
) -> None:
    quantized = quantized_case(case)
    spec, tensors = quantized.spec, quantized.tensors
    out = run(decompose(model_of(spec, tensors, dynamic=dynamic)), tensors)
    tolerance = TOLERANCES["attention", "float32"]
    error = tolerance.atol + tolerance.rtol * np.abs(quantized.exact)
    lowest, highest = (
        to_steps(quantized.exact + sign * error, spec.out_quant_scale) for sign in (-1, 1)
    )
    assert out.dtype == np.int8
    assert ((lowest <= out) & (out <= highest)).all()

    spec = replace(spec, out_quant_scale=0.0)
    out = run(decompose(model_of(spec, tensors, dynamic=dynamic)), tensors)
    assert_close(out, quantized.exact, "attention", "float32")


@pytest.mark.parametrize("constants", [True, False], ids=["weight", "input"])
def test_a_padded_token_is_rounded_to_the_steps_of_qkv(constants: bool) -> None:
    spec = AttentionSpec(
        2, 1, (HeadGroup(1, (1, 2)),), pad_mode="bias_kv", qkv_quant_scale=0.5, out_quant_scale=0.25
    )
    # One token and one padded one that weigh the same: the output is the mean of their values.
    # 0.75 and 1.25 lie between two steps of 0.5 and go to the even one, 1; 90 is more than 127.
    qkv = np.array([0, 0, 0, 0, 0, 0], np.int8).reshape(1, 1, 1, 6)
    for pad_value, stands_for in (
        ((0.75, 1.25), (1.0, 1.0)),
        ((0.7, -0.8), (0.5, -1.0)),
        ((90.0, -90.0), (63.5, -64.0)),
    ):
        pad_kv = np.array([3.3, 4.4, *pad_value], np.float32)
        tensors = {"qkv": qkv, "pad_kv": pad_kv}
        out = run(decompose(model_of(spec, tensors, dynamic=False, constants=constants)), tensors)
        mean = np.array(stands_for) / 2
        np.testing.assert_array_equal(out.reshape(-1), to_steps(mean, 0.25))
        exact, value_rms = exact_attention(spec, tensors)
        np.testing.assert_allclose(exact.reshape(-1), mean)
        np.testing.assert_allclose(value_rms.reshape(-1), np.abs(stands_for) / np.sqrt(2))


def test_padding_of_the_floating_point_form_is_not_rounded() -> None:
    spec = AttentionSpec(1, 1, (HeadGroup(1, (1, 2)),), pad_mode="bias_kv")
    tensors = {"qkv": np.zeros((1, 1, 1, 3), np.float32), "pad_kv": np.array([0, 0.3], np.float32)}
    model = decompose(model_of(spec, tensors, dynamic=False))
    np.testing.assert_allclose(run(model, tensors).reshape(-1), [0.15])
    assert "QuantizeLinear" not in {node.op_type for node in model.graph.node}
