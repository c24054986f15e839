"""Balanced channels: the same bits in float, far less noise in INT8, and the reasons why not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeattn.errors import SpecError, TableError
from edgeattn.graph.channel_groups import balanceable_channels
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.int8 import quant_scale_from_amax
from edgeattn.graph.passes.balance_channels import (
    BalancedGraph,
    balance_channels,
    balancing_factors,
)
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.placement import place_qdq
from tests.graph_runs import run, tensors_of
from tests.quantization import block, fake_quantized, floats, with_weights

OUTLIERS = {3: 60.0, 7: 25.0}


def weights(channels: int, outputs: int = 10) -> dict[str, np.ndarray]:
    """A normalization with outlier channels, as trained transformers have them, and a layer."""
    gain = np.linspace(0.5, 1.5, channels).astype(np.float32)
    for channel, factor in OUTLIERS.items():
        gain[channel % channels] *= factor
    shift = np.linspace(-1, 1, channels).astype(np.float32)
    # Trained weights are small where their inputs are large.
    weight = floats(channels, outputs) / np.sqrt(gain)[:, None]
    return {"gain": gain, "shift": shift, "w": weight.astype(np.float32)}


def maxima(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    axes = balanceable_channels(model)
    found = tensors_of(model, list(axes), inputs)
    return {
        name: np.abs(np.moveaxis(found[name], axis, -1)).reshape(-1, found[name].shape[axis]).max(0)
        for name, axis in axes.items()
    }


def balanced(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], alpha: float = 0.5
) -> BalancedGraph:
    return balance_channels(model, maxima(model, inputs), alpha)


def noise_db(model: onnx.ModelProto, inputs: dict[str, np.ndarray], reference: np.ndarray) -> float:
    """SQNR of a graph quantized with the exact range of each tensor."""
    names = place_qdq(model).activations
    scales = {
        name: float(quant_scale_from_amax(np.abs(values).max()))
        for name, values in tensors_of(model, list(names), inputs).items()
    }
    return sqnr_db(reference, run(insert_qdq(model, scales)[0], inputs)[0])


def assert_same_bits(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> BalancedGraph:
    result = balanced(model, inputs)
    assert result.amax, [decision.reason for decision in result.decisions]
    for expected, actual in zip(run(model, inputs), run(result.model, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)
    for name, values in tensors_of(result.model, list(result.amax), inputs).items():
        assert result.amax[name] == np.abs(values).max()
    onnx.checker.check_model(result.model)
    return result


def reasons(result: BalancedGraph) -> dict[str, str]:
    return {decision.node: decision.reason for decision in result.decisions}


NORM = "n = LayerNormalization(x, gain, shift)"
GRAPHS = {
    "a_gemm": (f"{NORM}\ny = Gemm(n, w)", (7, 12)),
    "a_gemm_of_the_transposed_weight": (
        f"{NORM}\nv = Transpose(w)\ny = Gemm<transB=1>(n, v)", (7, 12)
    ),
    "a_gemm_of_the_transposed_input": (
        f"{NORM}\nt = Transpose(n)\ny = Gemm<transA=1, alpha=0.5>(t, w)", (7, 12)
    ),
    "no_bias": ("n = LayerNormalization(x, gain)\ny = MatMul(n, w)", (3, 5, 12)),
    "layers_that_share_a_weight": (
        f"{NORM}\na = MatMul(n, w)\nb = MatMul(n, w)\ny = Add(a, b)", (3, 5, 12)
    ),
    "windows_between": (
        f"{NORM}\nr = Reshape(n, windows)\nt = Transpose<perm=[0, 2, 1, 3]>(r)\ny = MatMul(t, w)",
        (2, 6, 12),
    ),
    "a_roll_between": (
        f"{NORM}\na = Slice(n, one, far, one)\nb = Slice(n, zero, one, one)\n"
        "r = Concat<axis = 1>(a, b)\ny = MatMul(r, w)",
        (2, 6, 12),
    ),
    "padding_and_picking_between": (
        f"{NORM}\np = Pad(n, pads)\ng = Gather<axis=1>(p, picks)\ny = MatMul(g, w)", (2, 6, 12)
    ),
    "axes_of_one_between": (
        f"{NORM}\nt = Transpose<perm = [0, 2, 1]>(n)\nu = Unsqueeze(t, outer)\n"
        "p = AveragePool<kernel_shape = [1, 3], strides = [1, 3]>(u)\ns = Squeeze(p, inner)\n"
        "b = Transpose<perm = [0, 2, 1]>(s)\ny = MatMul(b, w)",
        (2, 6, 12),
    ),
    "a_mean_between": (
        f"{NORM}\nm = ReduceMean<keepdims = 0>(n, one)\nz = Gemm(m, w)\ny = Relu(z)", (2, 6, 12)
    ),
    "a_constant_added": (f"{NORM}\np = Add(place, n)\nz = Relu(p)\ny = MatMul(z, w)", (2, 6, 12)),
    "one_channel": (f"{NORM}\ny = MatMul(n, w)", (4, 3, 1)),
}  # fmt: skip


def graph_of(text: str, shape: tuple[int, ...], **more: np.ndarray) -> onnx.ModelProto:
    constants = {
        "windows": np.array([0, 2, 3, shape[-1]]),
        "zero": np.array([0]), "one": np.array([1]), "far": np.array([1 << 40]),
        "pads": np.array([0, 1, 0, 0, 2, 0]), "picks": np.array([[4, 0, 2]]),
        "place": floats(6, 1), "outer": np.array([-2]), "inner": np.array([2]),
    }  # fmt: skip
    known = weights(shape[-1]) | {k: v for k, v in constants.items() if k in text} | more
    dims = ",".join(["batch", *map(str, shape[1:])])
    rank = len(shape) + ("windows" in text or "picks" in text) - ("m = ReduceMean" in text)
    sizes = ",".join(f"d{i}" for i in range(rank))
    known = {k: v for k, v in known.items() if k in text}
    return with_weights(f"g (float[{dims}] x) => (float[{sizes}] y) {{ {text} }}", known)


@pytest.mark.parametrize(("text", "shape"), GRAPHS.values(), ids=GRAPHS)
def test_the_float_graph_computes_the_same_bits(text, shape):
    model = graph_of(text, shape)
    before = model.SerializeToString()
    assert_same_bits(model, {"x": floats(*shape)})
    assert model.SerializeToString() == before


def test_layers_that_read_one_normalization_share_the_factors():
    result = assert_same_bits(block(), {"x": floats(3, 4, 8)})
    assert result.amax.keys() == {"norm", "active"}  # fc1 → Relu → fc2 is exact as well
    assert "balanced with q, k, v: their largest magnitude was" in reasons(result)["norm"]


def test_convolutions_by_groups_are_balanced_on_their_input_channels():
    rng = np.random.default_rng(0)
    known = {
        "w1": rng.standard_normal((8, 3, 3, 3)), "b1": rng.standard_normal(8) * 30,
        "w2": rng.standard_normal((16, 4, 3, 3)), "w3": rng.standard_normal((5, 16, 1, 1)),
    }  # fmt: skip
    model = with_weights(
        """g (float[N,3,9,7] x) => (float[N,5,h,w] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            b = Relu(a)
            p = MaxPool<kernel_shape = [2, 2]>(b)
            c = Conv<group = 2>(p, w2)
            d = LeakyRelu<alpha = 0.1>(c)
            y = Conv(d, w3)
        }""",
        {name: array.astype(np.float32) for name, array in known.items()},
    )
    result = assert_same_bits(model, {"x": floats(2, 3, 9, 7)})
    assert result.amax.keys() == {"b", "p", "d"}  # pooling reads b in INT8, in one recipe


def test_outlier_channels_cost_many_decibels_less():
    model, x = graph_of(*GRAPHS["windows_between"]), {"x": floats(64, 6, 12)}
    reference = run(model, x)[0]
    plain = noise_db(model, x, reference)
    levelled = noise_db(balanced(model, x).model, x, reference)
    assert levelled > plain + 8, (plain, levelled)


def test_the_factors_are_those_of_the_paper_to_a_power_of_two():
    rng = np.random.default_rng(1)
    activation, weight = (np.exp(rng.normal(0, 3, 40)).astype(np.float32) for _ in range(2))
    for alpha in (0.0, 0.3, 0.5, 1.0):
        factors = balancing_factors(activation, weight, alpha).astype(np.float64)
        np.testing.assert_array_equal(np.log2(factors) % 1, 0)
        ideal = np.log2(activation**alpha / weight ** (1 - alpha))
        apart = np.log2(factors) - (ideal - ideal.mean())
        common = np.rint(apart.mean())  # so that the largest magnitude does not grow
        assert common >= 0
        assert (np.abs(apart - common) <= 0.5 + 1e-6).all()
        assert (activation / factors).max() <= activation.max()


def test_channels_of_zeros_and_unused_channels_are_no_obstacle():
    activation = np.array([0, 3, 400, 5, 0, 0.1], np.float32)
    weight = np.array([1, 1, 0, 2, 0, 0], np.float32)
    factors = balancing_factors(activation, weight, 0.5)
    assert factors[[0, 4, 5]].tolist() == [1, 1, 1]
    levelled = activation / factors
    assert levelled[2] <= max(levelled[1], levelled[3])
    nothing = np.zeros(3, np.float32)
    assert balancing_factors(nothing, np.ones(3, np.float32), 0.5).tolist() == [1, 1, 1]
    assert balancing_factors(np.ones(3, np.float32), nothing, 0.5).tolist() == [1, 1, 1]


def test_dead_channels_in_a_graph_stay_as_they_are():
    known = weights(12)
    known["gain"][[0, 5]] = known["shift"][[0, 5]] = 0
    known["w"][[5, 6]] = 0
    text, shape = GRAPHS["windows_between"]
    assert_same_bits(graph_of(text, shape, **known), {"x": floats(*shape)})


def test_factors_are_limited():
    huge = np.array([1e30, 1e-30, 1], np.float32)
    factors = balancing_factors(huge, np.ones(3, np.float32), 1.0)
    assert factors.tolist() == [2.0**15, 2.0**-15, 1.0]


@pytest.mark.parametrize("name", ["gain", "w", "shift"])
def test_what_float32_could_not_hold_is_left_alone(name):
    known = weights(12)
    known["shift"][:] = 0.5
    known[name][11] = {"gain": 1e-37, "w": 3e38, "shift": 3e-38}[name]  # its factor is 2^15
    model = graph_of(f"{NORM}\ny = Gemm(n, w)", (7, 12), **known)
    channel_amax = {"n": np.geomspace(1e-3, 1e6, 12).astype(np.float32)}
    result = balance_channels(model, channel_amax, 1.0)
    assert not result.amax
    assert "float32 could not hold the result" in reasons(result)["n"]
    assert result.model.graph == model.graph


OBSTACLES = {
    "another_normalization": ("m = LayerNormalization(n, gain)\nz = Neg(m)\ny = MatMul(n, w)",
        "LayerNormalization m reads it, which factors of channels may not pass"),
    "a_sum": ("q = MatMul(n, w)\ns = Add(x, n)\nt = MatMul(s, w)\ny = Add(q, t)",
        "Add s reads it, a sum of activations"),
    "an_activation_function": ("h = Gelu(n)\ny = MatMul(h, w)", "Gelu h reads it"),
    "its_own_square": ("s = Mul(n, n)\ny = MatMul(s, w)", "Mul s reads it"),
    "a_softmax": ("s = Softmax(n)\ny = MatMul(s, w)", "Softmax s reads it"),
    "channels_moved_away": ("t = Transpose<perm = [0, 2, 1]>(n)\ny = MatMul(t, u)",
        "MatMul y does not sum over its channels"),
    "channels_torn_apart": ("t = Reshape(n, halves)\ny = MatMul(t, v)", "Reshape t reads it"),
    "channels_cut": ("t = Slice(n, zero, five, two)\ny = MatMul(t, v)", "Slice t reads it"),
    "channels_padded": ("t = Pad(n, pads)\ny = MatMul(t, v)", "Pad t reads it"),
    "an_axis_that_may_be_the_channels": ("t = Squeeze(n)\ny = MatMul(t, w)", "Squeeze t reads it"),
    "padding_with_ones": ("t = Pad(n, rows, unit)\ny = MatMul(t, w)", "Pad t reads it"),
    "channels_averaged": ("t = ReduceMean(n, two)\nz = MatMul(t, v)\ny = Relu(z)",
        "ReduceMean t reads it"),
    "a_foreign_part": ("t = Concat<axis = 1>(n, x)\ny = MatMul(t, w)",
        "Concat t joins it with other tensors"),
    "no_reader": ("y = MatMul(x, w)\nz = Neg(n)", "Neg z reads it"),
    "a_left_factor": ("y = MatMul(k, n)\nz = MatMul(x, w)", "MatMul y reads it"),
    "a_half_layer": ("h = Cast<to = 10>(n)\ny = MatMul(x, w)", "Cast h reads it"),
}  # fmt: skip


@pytest.mark.parametrize(("rest", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_a_reader_that_minds_factors_forbids_them(rest, reason):
    known = weights(12) | {
        "u": floats(4, 5), "v": floats(6, 3), "k": floats(2, 4), "unit": np.float32([1]),
        "zero": np.array([0]), "two": np.array([2]), "five": np.array([6]),
        "halves": np.array([0, 8, 6]), "pads": np.array([0, 0, -3, 0, 0, -3]),
        "rows": np.array([0, 1, 0, 0, 1, 0]),
    }  # fmt: skip
    model = with_weights(
        f"g (float[N,4,12] x) => (float[a,b,c] y) {{ {NORM}\n{rest} }}",
        {name: array for name, array in known.items() if f"{name})" in rest or f"{name}," in rest
         or name in NORM},
    )  # fmt: skip
    result = balance_channels(model, maxima(model, {"x": floats(2, 4, 12)}))
    assert not result.amax
    assert reason in reasons(result)["n"]
    assert result.model.graph == model.graph


def test_a_graph_output_forbids_factors():
    model = with_weights(
        f"g (float[N,12] x) => (float[N,10] y, float[N,12] n) {{ {NORM}\ny = Gemm(n, w) }}",
        weights(12),
    )
    assert "the graph's output n" in reasons(balance_channels(model, {}))["n"]


def test_control_flow_forbids_factors():
    text = f"""g (float[N,12] x, bool c) => (float[N,10] y, float[a,b] z) {{
        {NORM}
        y = Gemm(n, w)
        z = If (c) <
            then_branch = t () => (float[a,b] one) {{ one = Neg(n) }},
            else_branch = e () => (float[a,b] two) {{ two = Neg(x) }}
        >
    }}"""
    model = with_weights(text, weights(12))
    assert "control flow reads n" in reasons(balance_channels(model, {}))["n"]


def test_a_normalization_over_two_axes_has_no_channels():
    model = with_weights(
        """g (float[N,4,12] x) => (float[N,4,5] y) {
            n = LayerNormalization<axis = 1>(x, g)
            y = MatMul(n, w)
        }""",
        {"g": floats(4, 12), "w": floats(12, 5)},
    )
    assert "one factor for each channel" in reasons(balance_channels(model, {}))["n"]


def test_nothing_is_moved_for_layers_that_stay_in_float():
    model = graph_of(*GRAPHS["a_gemm"])
    two = with_weights(
        f"g (float[N,12] x) => (float[N,10] y, float[N,10] z) {{ {NORM}\ny = Gemm(n, w)\n"
        "z = Gemm(x, w) }",
        weights(12),
    )
    result = balance_channels(two, {}, keep_float={"y"})
    assert "no INT8 layer reads it" in reasons(result)["n"]
    assert balance_channels(model, maxima(model, {"x": floats(7, 12)})).amax


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_balance_out_of_range_is_refused(alpha):
    with pytest.raises(SpecError, match="expected 0 to 1"):
        balance_channels(block(), {}, alpha)


def test_missing_maxima_are_refused():
    model = graph_of(*GRAPHS["a_gemm"])
    for known in ({}, {"n": np.ones(11, np.float32)}):
        with pytest.raises(TableError, match=r"of n are known.*those of all 12") as error:
            balance_channels(model, known)
        assert error.value.hint


def test_constants_that_nothing_reads_any_more_are_dropped():
    result = balanced(graph_of(*GRAPHS["a_gemm"]), {"x": floats(7, 12)})
    names = {tensor.name for tensor in result.model.graph.initializer}
    assert names == {"gain_balanced", "shift_balanced", "w_balanced"}
    for tensor in result.model.graph.initializer:
        assert numpy_helper.to_array(tensor).dtype == np.float32


def test_rounding_follows_the_balanced_graph_in_float64():
    model, x = graph_of(*GRAPHS["no_bias"]), {"x": floats(3, 5, 12)}
    result = balanced(model, x)
    constants = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    wide = x["x"].astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    norm = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5)
    norm = norm * constants["gain_balanced"]
    scale = float(quant_scale_from_amax(result.amax["n"]))
    weight = constants["w_balanced"].astype(np.float64)
    steps = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
    expected = fake_quantized(norm, scale) @ fake_quantized(weight, steps)
    quantized, _ = insert_qdq(result.model, {"n": scale})
    np.testing.assert_allclose(run(quantized, x)[0], expected, atol=1e-4)
