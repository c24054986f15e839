"""What the parser takes only in part: a node that breaks each limit, and one that keeps it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn.engine.tensorrt.parser_faults import parser_faults
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.graph.shapes import infer_types
from tests.quantization import with_weights

OLD, NEW = TensorRtVersion(10, 3), TensorRtVersion(11, 1)
ONES = {"ones": np.ones(4, np.float32), "axis": np.array([1]), "few": np.array([4])}

# A graph, and the reason that it is refused for; none if it is not. All weights are in each.
MAP = "g (float[1,4,8,8] x) => (float[A,B,C,D] y)"
CASES: dict[str, tuple[str, str, TensorRtVersion]] = {
    "pool": (f"{MAP} {{ y = MaxPool <kernel_shape=[2,2]> (x) }}", "", OLD),
    "dilated pool": (
        f"{MAP} {{ y = MaxPool <kernel_shape=[2,2], dilations=[2,1]> (x) }}",
        "its dilations are [2, 1]; TensorRT pools without",
        NEW,
    ),
    "pool of a sequence": (
        "g (float[1,4,8] x) => (float[A,B,C] y) { y = AveragePool <kernel_shape=[2]> (x) }",
        "",
        OLD,
    ),
    "pool of four axes": (
        "g (float[1,2,3,3,3,3] x) => (float[A,B,C,D,E,F] y) "
        "{ y = AveragePool <kernel_shape=[1,1,1,1]> (x) }",
        "its input x has 6 axes; TensorRT takes 3 or 4 or 5",
        OLD,
    ),
    "pool with places": (
        "g (float[1,4,8,8] x) => (float[A,B,C,D] y, int64[E,F,G,H] i) "
        "{ y, i = MaxPool <kernel_shape=[2,2]> (x) }",
        "its output Indices is read",
        NEW,
    ),
    "pool with places that nobody reads": (
        f"{MAP} {{ y, i = MaxPool <kernel_shape=[2,2]> (x) }}",
        "",
        OLD,
    ),
    "linear resize": (f'{MAP} {{ y = Resize <mode="linear"> (x, , ones) }}', "", OLD),
    "cubic resize": (f'{MAP} {{ y = Resize <mode="cubic"> (x, , ones) }}', "mode is cubic", NEW),
    "crop and resize": (
        f'{MAP} {{ y = Resize <coordinate_transformation_mode="half_pixel_symmetric"> '
        "(x, , ones) }",
        "its coordinate_transformation_mode is half_pixel_symmetric",
        NEW,
    ),
    "smooth resize": (
        f'{MAP} {{ y = Resize <mode="linear", antialias=1> (x, , ones) }}',
        "its antialias is 1; TensorRT takes 0",
        NEW,
    ),
    "resize that keeps its aspect": (
        f'{MAP} {{ y = Resize <keep_aspect_ratio_policy="not_larger"> (x, , ones) }}',
        "keep_aspect_ratio_policy is not_larger; TensorRT takes stretch",
        NEW,
    ),
    "largest": ("g (float[8] x) => (float[A] y) { y, i = TopK (x, few) }", "", OLD),
    "largest in no order": (
        "g (float[8] x) => (float[A] y) { y, i = TopK <sorted=0> (x, few) }",
        "its sorted is 0; TensorRT takes 1",
        NEW,
    ),
    "too many largest": (
        "g (float[9000] x) => (float[A] y) { y, i = TopK (x, many) }",
        "it picks 3840; TensorRT picks fewer than 3840",
        NEW,
    ),
    "sum": ("g (float[2,3] x) => (float[A,B] y) { y = ReduceSum (x, axis) }", "", OLD),
    "sum over a computed axis": (
        "g (float[2,3] x, int64[1] a) => (float[A,B] y) { y = ReduceSum (x, a) }",
        "its input axes is computed at run time; TensorRT wants a constant",
        NEW,
    ),
    "squeeze of a computed axis": (
        "g (float[2,1] x, int64[1] a) => (float[A] y) { y = Squeeze (x, a) }",
        "TensorRT before 10.7 wants a constant",
        OLD,
    ),
    "squeeze of a computed axis, later": (
        "g (float[2,1] x, int64[1] a) => (float[A] y) { y = Squeeze (x, a) }",
        "",
        NEW,
    ),
    "running sum": ("g (float[4] x) => (float[4] y) { y = CumSum (x, zero) }", "", OLD),
    "running sum over a computed axis": (
        "g (float[4] x, int64 a) => (float[4] y) { y = CumSum (x, a) }",
        "TensorRT before 10.8 wants a constant",
        OLD,
    ),
    "norm": (
        "g (float[2,4] x) => (float[2,4] y) { y, m, s = LayerNormalization (x, ones) }",
        "",
        OLD,
    ),
    "norm with its mean": (
        "g (float[2,4] x) => (float[2,4] y, float[A,B] m) "
        "{ y, m = LayerNormalization (x, ones) }",
        "its output Mean is read; TensorRT gives the first alone",
        NEW,
    ),
    "dropout": ("g (float[4] x) => (float[4] y) { y = Dropout (x, half, no) }", "", OLD),
    "dropout that trains": (
        "g (float[4] x) => (float[4] y) { y = Dropout (x, half, yes) }",
        "its input training_mode is not a constant false",
        NEW,
    ),
    "scatter": (
        "g (float[4] x, int64[1,1] i, float[1] u) => (float[4] y) { y = ScatterND (x, i, u) }",
        "",
        OLD,
    ),
    "scatter that adds": (
        'g (float[4] x, int64[1,1] i, float[1] u) => (float[4] y) '
        '{ y = ScatterND <reduction="add"> (x, i, u) }',
        "its reduction is add; TensorRT takes none",
        NEW,
    ),
    "identity": ("g (float[3,3] x) => (float[3,3] y) { y = EyeLike (x) }", "", OLD),
    "identity of a free size": (
        "g (float[N,3] x) => (float[N,3] y) { y = EyeLike (x) }",
        "its input has free sizes",
        NEW,
    ),
    "hardmax": ("g (float[N,3] x) => (float[N,3] y) { y = Hardmax (x) }", "", OLD),
    "hardmax over a free size": (
        "g (float[3,N] x) => (float[3,N] y) { y = Hardmax (x) }",
        "the size of its axis -1 is free",
        NEW,
    ),
    "sample of a volume": (
        "g (float[1,1,4,4,4] x, float[1,2,2,2,3] p) => (float[A,B,C,D,E] y) "
        "{ y = GridSample (x, p) }",
        "its input x has 5 axes; TensorRT takes 4",
        NEW,
    ),
    "a text": (
        'g (float[4] x) => (float[4] y) { t = Constant <value_string="a"> () y = Neg (x) }',
        "it has value_string, which TensorRT does not take",
        NEW,
    ),
}  # fmt: skip
WEIGHTS = ONES | {
    "many": np.array([3840]),
    "zero": np.array(0),
    "half": np.float32(0.5),
    "no": np.array(False),
    "yes": np.array(True),
}


@pytest.mark.parametrize(("text", "reason", "version"), CASES.values(), ids=CASES)
def test_a_limit_is_found_where_it_is_broken(
    text: str, reason: str, version: TensorRtVersion
) -> None:
    used = {name: array for name, array in WEIGHTS.items() if name in text}
    model = with_weights(text, used)
    faults = [f for f in parser_faults(model, infer_types(model), version) if f.topic == "operator"]
    assert len(faults) == bool(reason), faults
    if reason:
        assert reason in faults[0]
        assert faults[0].is_refused


def attention(rank: int, inputs: int = 3, **attributes: float) -> onnx.ModelProto:
    shape = ",".join(["2"] * rank)
    names = "qkvmpr"[:inputs]
    declared = ", ".join(f"float[{shape}] {name}" for name in names)
    model = with_weights(
        f"g ({declared}) => (float[{shape}] y) {{ y = Attention ({', '.join(names)}) }}", {}
    )
    node = model.graph.node[0]
    node.attribute.extend(helper.make_attribute(name, v) for name, v in attributes.items())
    model.opset_import[0].version = 23
    return model


def test_the_standards_attention_is_taken_in_part() -> None:
    def faults(model: onnx.ModelProto) -> list[str]:
        types = infer_types(model)
        return [f.reason for f in parser_faults(model, types, NEW) if f.topic == "operator"]

    assert faults(attention(4)) == []
    assert faults(attention(4, 4)) == []
    assert faults(attention(4, softcap=0.0)) == []
    assert faults(attention(4, softcap=2.0)) == ["its softcap is 2.0; TensorRT takes 0.0"]
    assert faults(attention(4, 6)) == [
        "it has the input past_key, which TensorRT does not take",
        "it has the input past_value, which TensorRT does not take",
    ]
    packed = attention(3, q_num_heads=2, kv_num_heads=2)
    assert faults(packed)[0] == "its input q has 3 axes; TensorRT takes 4"
