"""LayerNorm in pieces: found in every way that it is written, and in nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn.deploy.check.normalization import check_normalization
from edgeattn.deploy.check.subject import make_subject
from edgeattn.engine.tensorrt.destination import plan_for
from edgeattn.engine.tensorrt.request import TensorRtRequest
from tests.quantization import with_weights

WEIGHTS = {
    "last": np.array([-1]),
    "third": np.array([2]),
    "map": np.array([2, 3]),
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "epsilon": np.array(1e-5, np.float32),
}
MEAN = "m = ReduceMean(x, last) d = Sub(x, m) "
ROOT = "v = ReduceMean(s, last) p = Add(v, epsilon) r = Sqrt(p) "

FOUND = {
    "squares by a power": MEAN + "s = Pow(d, two) " + ROOT + "y = Div(d, r)",
    "squares by a product": MEAN + "s = Mul(d, d) " + ROOT + "y = Div(d, r)",
    "a product with the inverse": MEAN
    + "s = Mul(d, d) "
    + ROOT
    + "i = Reciprocal(r) y = Mul(d, i)",
    "the inverse first": MEAN + "s = Mul(d, d) " + ROOT + "i = Reciprocal(r) y = Mul(i, d)",
    "subtracted twice": MEAN + "e = Sub(x, m) s = Mul(d, d) " + ROOT + "y = Div(e, r)",
    "epsilon first": MEAN
    + "s = Mul(d, d) v = ReduceMean(s, last) p = Add(epsilon, v) r = Sqrt(p) y = Div(d, r)",
    "the axis from the front": (MEAN + "s = Mul(d, d) " + ROOT + "y = Div(d, r)").replace(
        "last", "third"
    ),
}
NOT_FOUND = {
    "a root mean square": "s = Mul(x, x) " + ROOT + "y = Div(x, r)",
    "cubes": MEAN + "s = Pow(d, three) " + ROOT + "y = Div(d, r)",
    "another product": MEAN + "s = Mul(d, x) " + ROOT + "y = Div(d, r)",
    "no root": MEAN + "s = Mul(d, d) v = ReduceMean(s, last) p = Add(v, epsilon) y = Div(d, p)",
    "no mean": "d = Sub(x, two) s = Mul(d, d) " + ROOT + "y = Div(d, r)",
    "another numerator": MEAN + "s = Mul(d, d) " + ROOT + "y = Div(x, r)",
}


def found_in(body: str, shape: str = "2,5,8", element: str = "float") -> list[tuple[str, str]]:
    text = f"g ({element}[{shape}] x) => ({element}[{shape}] y) {{ {body} }}"
    dtype = {"float": np.float32, "float16": np.float16}[element]
    weights = {
        name: array.astype(dtype) if array.dtype == np.float32 else array
        for name, array in WEIGHTS.items()
        if f" {name})" in body or f"({name}," in body
    }
    model: onnx.ModelProto = with_weights(text, weights)
    request = TensorRtRequest(target="jetson-orin-nano", jetpack="6.2")
    subject = make_subject(model, request, plan_for("jetson-orin-nano", "6.2"))
    return [(f.level, f.reason) for f in check_normalization(subject)]


@pytest.mark.parametrize("body", FOUND.values(), ids=FOUND)
def test_a_norm_in_pieces_is_found(body: str) -> None:
    ((level, reason),) = found_in(body)
    assert level == "warning"
    assert "FP16" not in reason


@pytest.mark.parametrize("body", NOT_FOUND.values(), ids=NOT_FOUND)
def test_what_is_no_layer_norm_is_left_alone(body: str) -> None:
    assert found_in(body) == []


def test_the_normalization_of_a_map_is_none() -> None:
    body = FOUND["squares by a product"].replace("last", "map")
    assert found_in(body, "2,3,4,4") == []


def test_in_fp16_it_is_said_that_it_overflows() -> None:
    ((_, reason),) = found_in(FOUND["squares by a power"], element="float16")
    assert reason.endswith("in FP16 its squares overflow beyond 255")
    casts = (
        MEAN + "f = Cast <to = 1> (d) s = Mul(f, f) v = ReduceMean(s, last) "
        "g1 = Cast <to = 10> (v) p = Add(g1, epsilon) r = Sqrt(p) y = Div(d, r)"
    )
    ((_, reason),) = found_in(casts, element="float16")
    assert "overflow" not in reason  # the squares are in float32
