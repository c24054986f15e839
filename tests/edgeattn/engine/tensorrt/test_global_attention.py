"""The rule that leaves attention of all tokens to all to TensorRT, or takes it from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeattn.engine.tensorrt import global_attention
from edgeattn.engine.tensorrt.destination import Destination, plan_for
from edgeattn.engine.tensorrt.global_attention import (
    LEAST_SPEEDUP,
    choice_for_target,
    global_choice,
    gpu_of,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import EngineError, MissingDependencyError, TargetError
from edgeattn.spec import AttentionSpec, HeadGroup
from edgeattn.targets import AGX_ORIN, H200, ORIN_NANO_SUPER, THOR

OLD, PADDING = TensorRtVersion(10, 3), TensorRtVersion(10, 14)
VIT = (1, 1, 197)


def whole(head_dim: int, heads: int = 6) -> AttentionSpec:
    return AttentionSpec(head_dim, heads, (HeadGroup(heads, (0, 0)),))


def decide(head_dim, size=VIT, gpu=AGX_ORIN, version=OLD, precision="fp32", graph_type="fp32"):
    return global_choice(gpu, version, precision)(whole(head_dim), size, graph_type)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
def test_what_tensorrt_fuses_by_itself_is_left_to_it(head_dim, precision):
    for gpu in (ORIN_NANO_SUPER, AGX_ORIN, THOR, H200):
        decision = decide(head_dim, gpu=gpu, precision=precision)
        assert not decision.takes
        assert decision.reason == (
            f"TensorRT fuses it by itself: {precision.upper()}, heads of {head_dim} channels"
        )


def test_the_type_of_the_graph_counts_where_no_precision_is_asked_for():
    assert decide(20, precision=None, graph_type="fp32").takes
    assert "TensorRT fuses it by itself: FP16" in (
        decide(64, precision=None, graph_type="fp16").reason
    )
    assert "fuses it by itself" in decide(64, precision="fp16", graph_type="fp32").reason


def test_small_heads_in_float32_are_taken_and_both_times_are_told():
    # Worked out by hand: 6 heads of 20 channels, 197 tokens (208 in tiles of 16), AGX Orin.
    # Ours: products, 6 · 4 · 208² · 20 at 0.6 of 16 SMs · 256 operations · 1.3 GHz. TensorRT's:
    # memory, 197 · 6 · (80 + 4 · 197) · 4 bytes at 0.85 of 204.8 GB/s.
    ours = 6 * 4 * 208**2 * 20 / (0.6 * 16 * 256 * 1.3e9) * 1e6
    theirs = 197 * 6 * (80 + 4 * 197) * 4 / (0.85 * 204.8e9) * 1e6
    assert theirs > LEAST_SPEEDUP * ours
    decision = decide(20)
    assert decision.takes
    assert decision.reason == (
        f"predicted to be faster: at least {ours:.3g} µs in our kernel, {theirs:.3g} µs in kernels "
        "for each step on Jetson AGX Orin 64 GB; its products are in float32; TensorRT fuses FP16, "
        "BF16 and INT8"
    )


def test_large_heads_in_float32_are_left_since_ours_multiplies_by_plain_arithmetic():
    decision = decide(64)
    assert not decision.takes
    assert decision.reason.startswith("not predicted to be 3 times as fast: at least 20.8 µs in")
    # TF32 on a card for servers is another matter still.
    assert not decide(20, gpu=H200).takes


def test_a_prediction_has_to_pass_the_margin(monkeypatch):
    ratio = (197 * (80 + 4 * 197) / 204.8e9 / 0.85) * 4 / (4 * 208**2 * 20 / (0.6 * 5.3248e12))
    for margin, takes in ((0.99 * ratio, True), (1.01 * ratio, False)):
        monkeypatch.setattr(global_attention, "LEAST_SPEEDUP", margin)
        assert decide(20).takes is takes


def test_heads_that_tensorrt_fuses_from_some_version_on_are_left_to_it_then():
    # 20 channels padded to 24: products of 208² · 24 at 0.6 of 16 SMs · 2048 operations · 1.3 GHz
    # take less than 197 · 6 · 4 · 24 numbers of two bytes at 0.85 of 204.8 GB/s.
    ours = 197 * 6 * 4 * 24 * 2 / (0.85 * 204.8e9) * 1e6
    theirs = 197 * 6 * (4 * 20 + 4 * 197) * 2 / (0.85 * 204.8e9) * 1e6
    decision = decide(20, precision="fp16", version=OLD)
    assert decision.takes
    times = f"{ours:.3g} µs in our kernel with heads padded to 24 channels, {theirs:.3g} µs in"
    assert times in decision.reason
    assert "by itself" in decide(20, precision="fp16", version=PADDING).reason
    # Too few channels for any version of its.
    for version in (OLD, PADDING):
        decision = decide(8, precision="fp16", version=version)
        assert decision.takes
        assert "its heads have 8 channels; TensorRT fuses 16 to 256" in decision.reason


@pytest.mark.parametrize(
    ("head_dim", "precision", "takes"),
    [(130, "fp16", "our kernel takes up to 128 in FP16"), (264, "bf16", "up to 128 in BF16"),
     (257, "fp32", "our kernel takes up to 256 in FP32")],
)  # fmt: skip
def test_heads_that_our_kernels_do_not_take_are_left(head_dim, precision, takes):
    decision = decide(head_dim, precision=precision)
    assert not decision.takes
    assert f"its heads have {head_dim} channels" in decision.reason
    assert takes in decision.reason


def test_what_cannot_be_predicted_is_left_and_the_reason_names_the_ways_out():
    for decision in (decide(20, gpu=None), decide(20, size=None)):
        assert not decision.takes
        assert "--global-attention fuses it, --autotune-attention measures" in decision.reason
    assert "GPU" in decide(20, gpu=None).reason
    assert "number of its tokens open" in decide(20, size=None).reason
    unknown = replace(AGX_ORIN, memory_gb_s=None)
    assert "not all figures of Jetson AGX Orin 64 GB are known" in decide(20, gpu=unknown).reason


@pytest.mark.parametrize("size", [(0, 1, 197), (1, 1, 0), (1, 1, 1)])
def test_no_tokens_and_one_are_no_work_to_take(size):
    assert not decide(20, size).takes


def test_the_batch_and_the_heads_change_nothing_and_rows_are_tokens_too():
    assert decide(20, (8, 1, 197)).takes
    assert decide(20, (1, 14, 14)).takes
    of_many = global_choice(AGX_ORIN, OLD, "fp32")(whole(20, 24), VIT, "fp32")
    assert of_many.takes


def test_a_board_has_the_figures_that_none_of_its_modules_exceeds():
    assert gpu_of(plan_for("jetson-orin-nano")) == ORIN_NANO_SUPER
    assert gpu_of(plan_for("jetson-thor")) == THOR


@pytest.fixture
def here(monkeypatch):
    """Let this machine have a GPU, or say what is wrong with it."""

    def set_to(found):
        def figures():
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(global_attention, "figures_of_gpu", figures)

    return set_to


def test_without_a_board_the_gpu_of_this_machine_counts(here):
    here(H200)
    assert gpu_of(Destination(OLD, "", (90,))) == H200
    assert gpu_of(plan_for("desktop", tensorrt="10.3")) == H200
    # It is none that the engine is for.
    assert gpu_of(Destination(OLD, "", (120,))) is None
    for failure in (None, EngineError("no GPU"), MissingDependencyError("no pycuda")):
        here(failure)
        assert gpu_of(Destination(OLD, "", (90,))) is None


def test_without_any_gpu_nobody_is_asked(here):
    here(AssertionError("asked"))
    assert gpu_of(Destination(OLD, "", ())) is None


def test_a_target_alone_gives_the_rule_and_tensorrt_need_not_be_here(here):
    here(None)
    assert choice_for_target("jetson-agx-orin", "fp32")(whole(20), VIT, "fp32").takes
    assert not choice_for_target("jetson-agx-orin", "fp16")(whole(64), VIT, "fp32").takes
    decision = choice_for_target("desktop", "fp32")(whole(20), VIT, "fp32")
    assert "no figures of the GPU are known" in decision.reason
    here(AGX_ORIN)  # a board is no desktop
    assert not choice_for_target("desktop", "fp32")(whole(20), VIT, "fp32").takes
    with pytest.raises(TargetError, match="there is no target 'jetson-orin-pico'"):
        choice_for_target("jetson-orin-pico", "fp16")
