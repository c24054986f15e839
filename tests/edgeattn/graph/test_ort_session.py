"""Sessions on graphs that rewrites of ONNX Runtime's own make unfit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from edgeattn.graph.ort_session import open_on_cpu
from tests.quantization import floats, with_weights

# Moved between the pair and its reader: ONNX Runtime repeats the pair behind the move.
MOVED = """
g (float[N,2,8] x) => (float[M,4] y) {
    turned = Neg(x)
    q = QuantizeLinear(turned, scale, zero)
    d = DequantizeLinear(q, scale, zero)
    rows = Reshape(d, shape)
    wd = DequantizeLinear<axis = 1>(w, steps)
    y = MatMul(rows, wd)
}
"""
# A LayerNormalization written out, behind a tensor of a half type.
NORMALIZED = """
g (float[N,8] x) => (float[N,8] y) {
    h = Cast<to = %d>(x)
    x32 = Cast<to = 1>(h)
    m = ReduceMean(x32, last)
    c = Sub(x32, m)
    s = Pow(c, two)
    v = ReduceMean(s, last)
    e = Add(v, epsilon)
    r = Sqrt(e)
    n = Div(c, r)
    g = Mul(n, gain)
    y = Add(g, shift)
}
"""


def options() -> ort.SessionOptions:
    chosen = ort.SessionOptions()
    chosen.log_severity_level = 4
    return chosen


@pytest.mark.parametrize("opset", [20, 21, 23])
@pytest.mark.parametrize("fuses_linear", [True, False])
def test_pairs_before_a_move_are_run_in_every_opset(
    opset: int, fuses_linear: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = {"scale": np.float32(0.1), "zero": np.int8(0), "shape": np.array([-1, 8])}
    weights |= {"w": np.arange(-16, 16, dtype=np.int8).reshape(8, 4), "steps": floats(4) ** 2}
    model = with_weights(MOVED, weights)
    model.opset_import[0].version = opset
    chosen = options()
    if not fuses_linear:
        chosen.add_session_config_entry(
            "optimization.disable_specified_optimizers", "MatMulAddFusion"
        )
    x = floats(3, 2, 8)
    (y,) = open_on_cpu(model.SerializeToString(), chosen).run(None, {"x": x})
    rounded = np.clip(np.rint(-x / np.float32(0.1)), -128, 127) * 0.1
    expected = rounded.reshape(-1, 8) @ (weights["w"] * weights["steps"].astype(np.float64))
    # ONNX Runtime may multiply such weights in blocks of 8 bits, of activations too.
    np.testing.assert_allclose(y, expected, atol=0.01 * np.abs(expected).max())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_normalization_of_half_tensors_is_run_as_it_is_written(half: str) -> None:
    constants = {"last": np.array([-1]), "two": np.float32(2), "epsilon": np.float32(1e-5)}
    weights = constants | {"gain": floats(8), "shift": np.linspace(-1, 1, 8, dtype=np.float32)}
    element = onnx.TensorProto.DataType.Value(half.upper())
    model = with_weights(NORMALIZED % element, weights)
    x = floats(5, 8)
    (y,) = open_on_cpu(model.SerializeToString(), options()).run(None, {"x": x})
    rounded = x.astype(helper.tensor_dtype_to_np_dtype(element)).astype(np.float64)
    centred = rounded - rounded.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, normal * weights["gain"] + weights["shift"], atol=1e-4)


def test_other_refusals_arrive_as_they_are() -> None:
    model = with_weights("g (float[N,8] x) => (float[N,4] y) { y = MatMul(x, w) }", {})
    with pytest.raises(Exception, match=r"Node input .w. is not"):
        open_on_cpu(model.SerializeToString(), options())
